"""MPT: losses, samplers, teachers' outputs, ablations, groups of targets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import batch_of, context, random

import promptkernels as pk
from prompttransfer.config import RunConfig
from prompttransfer.method_config import MPTConfig
from prompttransfer.methods import METHODS, Context, EncodedTask, mpt, teachers
from prompttransfer.methods.distillation import (
    DistillationLoss,
    PromptDistance,
    TeacherForward,
    hidden_distillation,
    logit_distillation,
)
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.sampler import mixed_batches, mixing_probabilities, task_batches
from prompttransfer.methods.teachers import Cost, KeptTeacher, TeacherOutputs, pack, worth_keeping
from prompttransfer.models import Backbone
from prompttransfer.prompts import FrozenPrompts, MultitaskPrompt, PromptModule, SoftPrompt, mean_factors
from prompttransfer.prompts.multitask import starting_factors
from prompttransfer.tasks.task import Task
from prompttransfer.training import Row

# losses


def test_distillation_is_zero_when_the_student_is_the_teacher(backbone: Backbone) -> None:
    prompts = random(2, 3, 16)
    batch = batch_of(backbone)
    student, teacher = (
        backbone(FrozenPrompts(prompts), batch, task_ids=batch["task_ids"], hidden="all") for _ in range(2)
    )
    assert logit_distillation(student.logits, teacher.logits, 2.0).abs() < 1e-6
    assert hidden_distillation(student, teacher) == 0
    other = backbone(FrozenPrompts(prompts.flip(0)), batch, task_ids=batch["task_ids"], hidden="all")
    assert logit_distillation(other.logits, teacher.logits) > 1e-4
    assert hidden_distillation(other, teacher) > 1e-4


def test_logit_distillation_is_the_literal_formula_teacher_first() -> None:
    student, teacher = random(2, 5), random(2, 5, seed=1)
    p, q = (teacher / 2).double().softmax(-1), (student / 2).double().softmax(-1)
    expected = (p * (p.log() - q.log())).sum(-1).mean()
    torch.testing.assert_close(logit_distillation(student, teacher, 2.0).double(), expected)


def test_the_source_loss_of_mpt_adds_its_three_parts(backbone: Backbone) -> None:
    batch = batch_of(backbone)
    teachers = FrozenPrompts(random(2, 3, 16))
    prompt = MultitaskPrompt(random(3, 16, seed=1), 2)
    ids = batch["task_ids"]
    student = backbone(prompt, batch, task_ids=ids, hidden="last", hidden_positions="text")
    teacher = backbone(teachers, batch, task_ids=ids, hidden="last", hidden_positions="text")
    expected = task_loss(backbone, prompt, batch) + 0.9 * (
        logit_distillation(student.logits, teacher.logits) + hidden_distillation(student, teacher)
    )
    torch.testing.assert_close(DistillationLoss(TeacherForward(teachers))(backbone, prompt, batch), expected)
    without = DistillationLoss(TeacherForward(teachers), weight=0.0)(backbone, prompt, batch)
    torch.testing.assert_close(without, task_loss(backbone, prompt, batch))


def test_hidden_distillation_ignores_padding(llama: Backbone) -> None:
    prompt, teachers = SoftPrompt(random(3, 16)), FrozenPrompts(random(1, 3, 16, seed=1))

    def loss(rows: list[list[int]]) -> torch.Tensor:
        batch = llama.collate(rows)
        student = llama(prompt, batch, hidden="last", hidden_positions="text")
        return hidden_distillation(student, llama(teachers, batch, hidden="last", hidden_positions="text"))

    short, long = loss([[13]]), loss([[10, 11, 12, 14, 15]])
    torch.testing.assert_close(loss([[13], [10, 11, 12, 14, 15]]), (short + 5 * long) / 6, rtol=1e-4, atol=1e-5)


def test_temperature_softens_and_may_be_made_up_for(llama: Backbone) -> None:
    batch, prompts = batch_of(llama), FrozenPrompts(random(2, 3, 16))
    prompt = MultitaskPrompt(random(3, 16, seed=1), 2)
    p = llama(prompts, batch, task_ids=batch["task_ids"]).logits.double().div(3).softmax(dim=-1)
    q = llama(prompt, batch, task_ids=batch["task_ids"]).logits.double().div(3).softmax(dim=-1)
    divergence = (p * (p.log() - q.log())).sum(dim=-1).mean()
    for squared, factor in ((False, 1), (True, 9)):
        teacher = TeacherForward(prompts, "none")
        loss = DistillationLoss(teacher, 0.5, temperature=3.0, temperature_squared=squared, hidden="none")
        extra = loss(llama, prompt, batch) - task_loss(llama, prompt, batch)
        torch.testing.assert_close(extra.double(), 0.5 * factor * divergence, rtol=1e-4, atol=1e-6)


def test_distance_of_prompts_is_the_mean_over_the_rows(llama: Backbone) -> None:
    batch, prompts = batch_of(llama), random(2, 3, 16)
    prompt = MultitaskPrompt(random(3, 16, seed=1), 2, u=random(2, 3, 1, seed=2), v=random(2, 1, 16, seed=3))
    distance = [(prompt.shared * (prompt.u[t] @ prompt.v[t]) - prompts[t]).square().mean() for t in (0, 1, 0)]
    extra = PromptDistance(FrozenPrompts(prompts), 0.5)(llama, prompt, batch) - task_loss(llama, prompt, batch)
    torch.testing.assert_close(extra, 0.5 * sum(distance) / 3, rtol=1e-4, atol=1e-5)


# samplers


def test_task_sampler_rules_and_frequencies() -> None:
    sizes = [100, 300, 600]
    batches = task_batches(sizes, 12, 4000, seed=0)
    assert all(len(batch) == 12 for batch in batches)
    distinct = Counter(len({task for task, _ in batch}) for batch in batches)
    assert set(distinct) == {1, 2, 3}  # with replacement there can be fewer than K >= 2
    share = torch.tensor([sum(task == which for batch in batches for task, _ in batch) for which in range(3)]) / 48_000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.3, 0.6]), rtol=0, atol=0.02)
    assert all(0 <= row < sizes[task] for batch in batches for task, row in batch)


def test_task_sampler_without_replacement_gives_k_distinct_tasks() -> None:
    batches = task_batches([50] * 4, 13, 3000, seed=0, mixing="equal", replacement=False)
    counts = Counter()
    for batch in batches:
        per_task = Counter(task for task, _ in batch)
        k = len(per_task)
        counts[k] += 1
        expected = sorted([13 // k] * (k - 1) + [13 // k + 13 % k])
        assert sorted(per_task.values()) == expected
    assert set(counts) == {2, 3, 4}
    assert all(abs(count / 3000 - 1 / 3) < 0.04 for count in counts.values())


def test_task_sampler_with_small_batches_and_wrapping_cursors() -> None:
    (batch,) = task_batches([5] * 8, 2, 1, seed=0, replacement=False)
    assert len(batch) == 2
    batches = task_batches([5, 5], 4, 50, seed=0, replacement=False)
    rows = [row for batch in batches for task, row in batch if task == 0]
    uses = Counter(rows)
    assert max(uses.values()) - min(uses.values()) <= 1  # nobody's turn comes twice before everybody's once
    assert all(len(batch) == 3 for batch in task_batches([7], 3, 4, seed=0))


def test_mixing_probabilities() -> None:
    assert mixing_probabilities([2**18, 2**20], "t5").tolist() == [0.5, 0.5]
    assert mixing_probabilities([1, 3], "proportional").tolist() == [0.25, 0.75]
    assert mixing_probabilities([1, 3], "equal").tolist() == [0.5, 0.5]
    assert 0.25 < mixing_probabilities([10, 30], "log")[0] < 0.5
    with pytest.raises(ValueError, match="mixing"):
        mixing_probabilities([1], "other")


def test_a_plain_mixture_draws_every_row_by_itself() -> None:
    sizes = [100, 300, 600]
    batches = mixed_batches(sizes, 12, 2000, seed=0)
    drawn = Counter(task for batch in batches for task, _ in batch)
    share = torch.tensor([drawn[task] / 24_000 for task in range(3)])
    torch.testing.assert_close(share, torch.tensor([0.1, 0.3, 0.6]), rtol=0, atol=0.02)
    # Rows are independent: the number of rows of a task in a batch is binomial, not a share of the batch.
    counts = torch.tensor([float(sum(task == 1 for task, _ in batch)) for batch in batches])
    assert counts.var().item() == pytest.approx(12 * 0.3 * 0.7, rel=0.1)
    uses = Counter(row for batch in batches for task, row in batch if task == 0)
    assert max(uses.values()) - min(uses.values()) <= 1


# factors


def test_factors_start_at_the_shared_prompt_or_as_in_peft_near_zero() -> None:
    u, v = starting_factors(3, 40, 50)
    assert torch.equal(u @ v, torch.ones(3, 40, 50))
    u, v = starting_factors(3, 40, 50, 2, kind="normal")
    assert u.shape == (3, 40, 2) and v.shape == (3, 2, 50)
    assert u.std().item() == pytest.approx(0.02, rel=0.2) == v.std().item()
    assert (u @ v).abs().max() < 0.01
    with pytest.raises(ValueError, match="'zeros'"):
        starting_factors(1, 2, 3, kind="zeros")


def test_means_of_factors_are_those_of_peft() -> None:
    u, v = random(4, 5, 2), random(4, 2, 6, seed=1)
    got = mean_factors(u, v)
    for ours, factor in zip(got, (u, v), strict=True):
        np.testing.assert_allclose(ours.numpy()[0], factor.double().numpy().mean(axis=0), rtol=1e-5, atol=1e-6)


def test_frozen_parts_leave_the_optimizer() -> None:
    prompt = MultitaskPrompt(random(4, 6))
    for part, count, rates in (("both", 34, [0.3, 0.4]), ("shared", 24, [0.3]), ("factors", 10, [0.4])):
        prompt.train_only(part)
        assert prompt.trainable_parameters() == count
        assert [group["lr"] for group in prompt.parameter_groups(0.3, 0.4)] == rates
    with pytest.raises(ValueError, match="'u'"):
        prompt.train_only("u")


# teachers' outputs


def outputs_of(backbone: Backbone, rows: list[Row], teacher: TeacherForward, size: int) -> TeacherOutputs:
    order, tensors = [(row.task, row.ids) for row in rows], {}
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        batch = backbone.collate([ids for _, ids in chosen])
        batch["task_ids"] = torch.tensor([task for task, _ in chosen])
        tensors |= {f"{name}.{first}": tensor for name, tensor in pack(teacher(backbone, batch)).items()}
    return TeacherOutputs(order, size, tensors)


ROWS = [Row((13,), 4), Row((14, 15), 4), Row((14, 15), 4, 1), Row((10, 11, 12), 5, 1), Row((9, 8, 7, 6), 5, 0)]


@pytest.mark.parametrize("hidden", ["none", "last", "all"])
@pytest.mark.parametrize("positions", ["text", "all"])
def test_kept_outputs_are_those_of_a_forward_in_any_batch(backbone: Backbone, hidden: str, positions: str) -> None:
    teacher = TeacherForward(FrozenPrompts(random(2, 3, 16)), hidden, positions)
    kept = outputs_of(backbone, ROWS, teacher, size=2)
    for chosen in ([4, 0], [2, 1, 3], [0]):
        batch = backbone.collate([ROWS[index].ids for index in chosen])
        batch["task_ids"] = torch.tensor([ROWS[index].task for index in chosen])
        student = SoftPrompt(random(3, 16, seed=1))
        ours = backbone(student, batch, hidden=hidden, hidden_positions=positions)
        got, expected = kept(backbone, batch, ours), teacher(backbone, batch)
        torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)
        assert len(got.hidden) == len(expected.hidden)
        for (state, mask), (wanted, same) in zip(got.hidden, expected.hidden, strict=True):
            assert torch.equal(mask, same)
            torch.testing.assert_close(state, wanted * mask[..., None], rtol=1e-4, atol=1e-5)


def test_outputs_of_a_model_in_bfloat16_take_half_the_room_and_lose_nothing(llama: Backbone) -> None:
    batch = batch_of(llama)
    output = TeacherForward(FrozenPrompts(random(2, 3, 16)))(llama, batch)
    assert pack(output)["logits"].dtype == torch.float32
    output.logits = output.logits.bfloat16().float()
    short = pack(output)["logits"]
    assert short.dtype == torch.bfloat16
    assert torch.equal(short.float(), output.logits)


def test_outputs_are_kept_where_that_is_cheaper_and_small_enough() -> None:
    cost = Cost(forward=1.0, write=0.5, read=0.01, size=1000)
    assert worth_keeping(cost, rows=100, uses=200, limit=1e6)
    assert not worth_keeping(cost, rows=100, uses=200, limit=99_999)
    assert not worth_keeping(cost, rows=100, uses=100, limit=1e6)  # every row is needed once
    assert not worth_keeping(cost, rows=100, uses=150, limit=1e6)  # 150 + 1.5 of 150
    slow_disk = Cost(forward=1.0, write=0.5, read=1.5, size=1000)
    assert not worth_keeping(slow_disk, rows=100, uses=10_000, limit=1e6)


def test_auto_measures_only_where_rows_come_again_and_takes_what_is_there(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, _ = context(llama, tasks, tmp_path)
    measured = []

    def measure(*_: object) -> Cost:
        measured.append(True)
        return Cost(1.0, 0.0, 2.0, 1.0)  # never worth it

    monkeypatch.setattr(teachers, "measure", measure)
    teacher = TeacherForward(FrozenPrompts(random(2, 3, 16)))
    batch = llama.collate([row.ids for row in ROWS]) | {"task_ids": torch.tensor([row.task for row in ROWS])}
    student = llama(SoftPrompt(random(3, 16)), batch, hidden="last", hidden_positions="text")

    def files(uses: int, keep: str) -> int:
        KeptTeacher(ctx, teacher, ROWS, uses, keep, 1.0)(llama, batch, student)
        return len(list((tmp_path / "done").iterdir()))

    assert (files(5, "auto"), len(measured)) == (0, 0)
    assert (files(6, "auto"), len(measured)) == (0, 1)
    assert (files(6, "never"), len(measured)) == (0, 1)
    assert (files(1, "always"), len(measured)) == (1, 1)
    monkeypatch.setattr(TeacherForward, "__call__", None)  # from here on there is only the file
    assert (files(6, "auto"), len(measured)) == (1, 1)


def test_a_real_measurement_is_of_one_row(llama: Backbone, tmp_path: Path) -> None:
    cost = teachers.measure(llama, TeacherForward(FrozenPrompts(random(2, 3, 16))), batch_of(llama), tmp_path)
    values = 4 * (llama.model.config.vocab_size + 2 * 16)  # logits, and two text tokens of the last layer per row
    assert values < cost.size < values + 200
    assert min(cost.forward, cost.write, cost.read) > 0
    assert list(tmp_path.iterdir()) == []


def test_training_with_kept_outputs_is_training_with_teachers(
    backbone: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    found = []
    for keep in ("always", "never"):
        ctx, target = context(backbone, tasks, tmp_path / keep, mpt={"teacher_cache": keep, "source_updates": 12})
        found.append(METHODS["MPT"](ctx, target))
    torch.testing.assert_close(found[0].prompt, found[1].prompt, rtol=1e-4, atol=1e-5)
    losses = [torch.tensor(result.history["source_loss"]) for result in found]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)


# settings


def test_ablations_are_settings_and_contradictions_are_refused() -> None:
    names = MPTConfig.model_fields["ablation"].annotation.__args__
    changed = {name: MPTConfig(ablation=name).model_dump(exclude_defaults=True) for name in names}
    assert changed.pop("none") == {}
    assert all(len(settings) >= 2 for settings in changed.values())  # its name, and what it means
    assert len({str(sorted(s.items())) for s in changed.values()}) == len(changed)
    given = {"ablation": "no-hidden"}
    assert RunConfig(mpt=given).mpt.hidden == "none"
    assert given == {"ablation": "no-hidden"}
    config = RunConfig(mpt={"ablation": "neither", "variant": "code"})
    assert RunConfig(**config.model_dump()) == config
    with pytest.raises(ValueError, match="hidden='none', got hidden='all'"):
        RunConfig(mpt={"ablation": "no-hidden", "hidden": "all"})


def test_the_published_code_is_a_variant_and_explicit_settings_win() -> None:
    assert (MPTConfig().average, MPTConfig().factor_start) == ("fit", "ones")
    code = MPTConfig(variant="code")
    assert (code.average, code.factor_start) == ("means", "normal")
    assert MPTConfig(variant="code", average="fit").average == "fit"


# recipe


def stages_of(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict, PromptModule]]:
    """Titles of the stages that ctx runs from here on, the prompt's tensors before, and the prompt."""
    stages, original = [], Context.run

    def spy(self: Context, title: str, plan, settings=None):
        before = {name: tensor.clone() for name, tensor in plan.prompt.state_dict().items()}
        stages.append((title, before, plan.prompt))
        return original(self, title, plan, settings)

    monkeypatch.setattr(Context, "run", spy)
    return stages


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several tests, so that the teachers are trained once."""
    return tmp_path_factory.mktemp("store")


TEACHERS = ["source red", "source green", "source blue"]


@pytest.mark.parametrize(
    ("ablation", "taught", "trained"),
    [
        ("none", True, {"shared", "u", "v"}),
        ("no-distillation", False, {"shared", "u", "v"}),
        ("no-decomposition", True, {"prompt"}),
        ("neither", False, {"prompt"}),
        ("no-hidden", True, {"shared", "u", "v"}),
        ("prompt-mse", True, {"shared", "u", "v"}),
        ("no-sampling", True, {"shared", "u", "v"}),
        ("shared-only", True, {"shared"}),
        ("vectors-only", True, {"u", "v"}),
    ],
)
def test_every_ablation_runs_and_trains_what_it_names(
    llama: Backbone,
    tasks: dict[str, Task],
    one_store: Path,
    monkeypatch: pytest.MonkeyPatch,
    ablation: str,
    taught: bool,
    trained: set[str],
) -> None:
    ctx, target = context(llama, tasks, one_store, mpt={"ablation": ablation})
    stages = stages_of(ctx, monkeypatch)
    result = METHODS["MPT"](ctx, target)
    titles = [title for title, _, _ in stages]
    assert titles == [*(TEACHERS if taught else []), "MPT: joint source stage", "goal: MPT"]
    assert result.source_updates == 4 + 12 * taught
    _, before, prompt = stages[-1]
    assert {name for name, tensor in prompt.state_dict().items() if not torch.equal(tensor, before[name])} == trained
    assert result.trainable_parameters == sum(before[name].numel() for name in trained)


def test_the_target_starts_at_the_best_fit_of_the_mean_task_matrix(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    joint = MultitaskPrompt(random(3, 16), 4, 2, u=random(4, 3, 2, seed=1), v=random(4, 2, 16, seed=2))
    mean = (joint.u.detach().double() @ joint.v.detach().double()).mean(dim=0).numpy()
    left, values, right = np.linalg.svd(mean, full_matrices=False)
    fit = (left[:, :2] * values[:2]) @ right[:2]
    means = joint.u.detach().numpy().mean(axis=0) @ joint.v.detach().numpy().mean(axis=0)
    for average, expected in (("fit", fit), ("means", means)):
        ctx, _ = context(llama, tasks, tmp_path, target_learning_rate=0.3, mpt={"average": average})
        prompt, groups = mpt.target_prompt(ctx, joint, 3)
        assert prompt.tasks == 3
        for task in range(3):
            wanted = joint.shared.detach().numpy() * expected
            np.testing.assert_allclose(prompt.composed(task).numpy(), wanted, rtol=1e-4, atol=1e-5)
        assert [group["lr"] for group in groups] == pytest.approx([0.3, 0.4])


def test_a_group_shares_its_prompt_and_each_target_spends_its_own_budget(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, goal = context(llama, tasks, tmp_path)
    other = EncodedTask.of(tasks["blue"], llama)
    ctx.targets = [goal, other]
    plans, original = [], Context.plan

    def spy(self: Context, prompt, objective, rows, batches, rate, **more):
        plans.append((rows, batches))
        return original(self, prompt, objective, rows, batches, rate, **more)

    monkeypatch.setattr(Context, "plan", spy)
    first = METHODS["MPT-group"](ctx, goal)
    rows, batches = plans[-1]
    for place, task in enumerate(ctx.targets):
        # The rows of this target in every joint update are those it would read alone.
        own = [[row for row in batch if rows[row].task == place] for batch in batches]
        alone = [[task.train[row].ids for row in batch] for batch in ctx.target_batches(task)]
        assert [[rows[row].ids for row in batch] for batch in own] == alone
    second = METHODS["MPT-group"](ctx, other)
    for result in (first, second):
        assert (result.target_updates, result.target_examples) == (6, 24)
        assert result.trainable_parameters == 3 * 16 // 2 + 3 + 16
    assert torch.equal(first.other_prompts["shared"], second.other_prompts["shared"])
    # One P*, rank-one factors each: the quotient of the two prompts has rank one.
    values = torch.linalg.svdvals(first.prompt.double() / second.prompt.double())
    assert values[1] < 1e-4 * values[0]
    assert not torch.allclose(first.prompt, second.prompt)


def test_a_group_of_one_is_mpt(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, goal = context(llama, tasks, tmp_path)
    alone, group = METHODS["MPT"](ctx, goal), METHODS["MPT-group"](ctx, goal)
    assert torch.equal(alone.prompt, group.prompt)
    eight = MultitaskPrompt(torch.zeros(100, 768), 8)
    assert eight.trainable_parameters() // 8 == 10_468  # MPT* on eight targets


def test_fused_and_plain_operations_give_one_loss_curve(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    curves = []
    for backend in (None, "reference"):
        ctx, target = context(llama, tasks, tmp_path / str(backend), mpt={"rank": 2, "source_updates": 50})
        ctx.config.target_updates = 50
        if backend is None:
            result = METHODS["MPT"](ctx, target)
        else:
            with pk.use_backend(backend):
                result = METHODS["MPT"](ctx, target)
        curves.append([torch.tensor(result.history[name], dtype=torch.float64) for name in ("source_loss", "loss")])
    for fused, plain in zip(*curves, strict=True):
        assert len(fused) == 50
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=0)
