"""MPT: losses, factors, ablations, groups of targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import batch_of, context, random

import promptkernels as pk
from promptkernels.bench.memory import peak_bytes
from prompttransfer import RunConfig
from prompttransfer.methods import METHODS, Context, EncodedTask, mpt
from prompttransfer.methods.distillation import (
    DistillationLoss,
    PromptDistance,
    Teacher,
    TeacherForward,
    hidden_distillation,
    logit_distillation,
)
from prompttransfer.methods.mpt import MPTConfig
from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone
from prompttransfer.prompts import FrozenPrompts, MultitaskPrompt, PromptModule, SoftPrompt, mean_factors
from prompttransfer.prompts.multitask import starting_factors
from prompttransfer.tasks.task import Task

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


def test_the_teachers_forward_adds_no_more_than_its_output_to_the_peak_of_an_update(backbone: Backbone) -> None:
    """It is over, and its scratch free, before the student's graph is there."""
    batch, prompt = batch_of(backbone), MultitaskPrompt(random(3, 16, seed=1), 2)
    forward = TeacherForward(FrozenPrompts(random(2, 3, 16)))
    known, output = forward(backbone, batch), forward.output(backbone, batch)

    def peak(teacher: Teacher) -> int:
        return peak_bytes(lambda: DistillationLoss(teacher)(backbone, prompt, batch).backward(), torch.device("cpu"))

    peak(forward)  # the first forward of a model makes tables that stay
    tensors = [output.logits, *(tensor for pair in output.hidden for tensor in pair)]
    kept = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    assert peak(forward) <= peak(lambda *_: known) + sum(kept.values())


def test_hidden_distillation_ignores_padding(llama: Backbone) -> None:
    prompt, teachers = SoftPrompt(random(3, 16)), FrozenPrompts(random(1, 3, 16, seed=1))

    def loss(rows: list[list[int]]) -> torch.Tensor:
        batch = llama.collate(rows)
        student = llama(prompt, batch, hidden="last", hidden_positions="text")
        return hidden_distillation(student, llama(teachers, batch, hidden="last", hidden_positions="text"))

    short, long = loss([[13]]), loss([[10, 11, 12, 14, 15]])
    torch.testing.assert_close(loss([[13], [10, 11, 12, 14, 15]]), (short + 5 * long) / 6, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", ["text", "all"])
@pytest.mark.parametrize("layers", ["last", "all"])
def test_hidden_distillation_is_the_literal_mean_over_rows_read_alone(
    backbone: Backbone, layers: str, positions: str
) -> None:
    """The model's own hidden states, without a batch; those of an encoder-decoder from both of its halves."""
    texts, answers, tasks = [(10, 11, 12, 13), (15,), (16, 17)], [(44, 45, 2), (30, 2), (46,)], (1, 0, 1)
    student, teacher = random(2, 3, 16), random(2, 3, 16, seed=1)
    batch = backbone.collate(texts, answers)
    outputs = [
        backbone(FrozenPrompts(p), batch, task_ids=torch.tensor(tasks), hidden=layers, hidden_positions=positions)
        for p in (student, teacher)
    ]

    def states(prompt: torch.Tensor, text: tuple[int, ...], answer: tuple[int, ...]) -> list[torch.Tensor]:
        """Of every chosen layer (positions, H), in float64."""
        read = torch.tensor(text if backbone.seq2seq else text + answer[:-1])
        own = {} if not backbone.seq2seq else {"decoder_input_ids": torch.tensor([[0, *answer[:-1]]])}
        embeds = torch.cat([prompt, backbone.embedding(read)])[None]
        with torch.no_grad():
            output = backbone.model(inputs_embeds=embeds, output_hidden_states=True, use_cache=False, **own)
        chosen = slice(-1, None) if layers == "last" else slice(1, None)  # not the embeddings
        ours = output.encoder_hidden_states if backbone.seq2seq else output.hidden_states
        kept = [state[0, (3 if positions == "text" else 0) :].double() for state in ours[chosen]]
        return kept + ([state[0].double() for state in output.decoder_hidden_states[chosen]] if own else [])

    squares: list[list[torch.Tensor]] = []  # per layer, of all rows
    for text, answer, task in zip(texts, answers, tasks, strict=True):
        pairs = zip(*(states(p[task], text, answer) for p in (student, teacher)), strict=True)
        squares.append([(a - b).square() for a, b in pairs])
    expected = torch.stack([torch.cat(layer).mean() for layer in zip(*squares, strict=True)]).mean()
    assert len(outputs[0].hidden) == len(squares[0]) == (1 if layers == "last" else 2) * (2 if backbone.seq2seq else 1)
    torch.testing.assert_close(hidden_distillation(*outputs).double(), expected, rtol=1e-4, atol=1e-6)


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


# settings


def test_ablations_are_settings_and_contradictions_are_refused() -> None:
    names = MPTConfig.model_fields["ablation"].annotation.__args__
    changed = {name: MPTConfig(ablation=name).model_dump(exclude_defaults=True) for name in names}
    assert changed.pop("none") == {}
    assert all(len(settings) >= 2 for settings in changed.values())  # its name, and what it means
    assert len({str(sorted(s.items())) for s in changed.values()}) == len(changed)
    settings = {"ablation": "no-hidden"}
    assert RunConfig(mpt=settings).mpt.hidden == "none"
    assert settings == {"ablation": "no-hidden"}
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

    def spy(self: Context, title: str, plan, settings=None, **named):
        before = {name: tensor.clone() for name, tensor in plan.prompt.state_dict().items()}
        stages.append((title, before, plan.prompt))
        return original(self, title, plan, settings, **named)

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
        ("shared-only", True, {"prompt"}),
        ("frozen-vectors", True, {"shared"}),
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
    result = METHODS["MPT"].run(ctx, target)
    titles = [title for title, _, _ in stages]
    assert titles == [*(TEACHERS if taught else []), "MPT: joint source stage", "goal: MPT"]
    assert result.source_updates == 4 + 12 * taught
    _, before, prompt = stages[-1]
    assert {name for name, tensor in prompt.state_dict().items() if not torch.equal(tensor, before[name])} == trained
    assert result.trainable_parameters == sum(before[name].numel() for name in trained)


@pytest.mark.parametrize("count", [1, 2])
def test_shared_only_has_no_task_vectors_on_the_target(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, count: int
) -> None:
    joint = MultitaskPrompt(random(3, 16), 4, u=random(4, 3, 1, seed=1), v=random(4, 1, 16, seed=2))
    mean = (joint.u @ joint.v).mean(dim=0).detach()
    for ablation, expected in (("shared-only", joint.shared), ("frozen-vectors", None)):
        ctx, _ = context(llama, tasks, tmp_path, mpt={"ablation": ablation, "average": "fit", "rank": 1})
        prompt, groups = mpt.target_prompt(ctx, joint, count)
        trained = sum(parameter.numel() for group in groups for parameter in group["params"])
        assert trained == prompt.trainable_parameters() == 3 * 16
        left, values, right = np.linalg.svd(mean.double().numpy())
        wanted = (
            joint.shared
            if expected is not None
            else joint.shared * torch.tensor(values[0] * np.outer(left[:, 0], right[0]), dtype=torch.float32)
        )
        for index in range(count):
            torch.testing.assert_close(prompt.composed(index), wanted.detach(), rtol=1e-4, atol=1e-5)


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
        assert prompt.count == 3
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

    def spy(self: Context, prompt, objective, rows, batches, *rest, **more):
        plans.append((rows, batches))
        return original(self, prompt, objective, rows, batches, *rest, **more)

    monkeypatch.setattr(Context, "plan", spy)
    first = METHODS["MPT-group"].run(ctx, goal)
    rows, batches = plans[-1]
    for place, task in enumerate(ctx.targets):
        # The rows of this target in every joint update are those it would read alone.
        own = [[row for row in batch if rows[row].task == place] for batch in batches]
        alone = [[task.train[row].ids for row in batch] for batch in ctx.target_batches(task)]
        assert [[rows[row].ids for row in batch] for batch in own] == alone
    second = METHODS["MPT-group"].run(ctx, other)
    for result in (first, second):
        assert (result.target_updates, result.target_examples) == (6, 24)
        assert result.trainable_parameters == 3 * 16 // 2 + 3 + 16
    assert torch.equal(first.other_prompts["shared"], second.other_prompts["shared"])
    # One P*, rank-one factors each: the quotient of the two prompts has rank one.
    values = torch.linalg.svdvals(first.prompt.double() / second.prompt.double())
    assert values[1] < 1e-4 * values[0]
    assert not torch.allclose(first.prompt, second.prompt)


def test_exceptions_of_a_target_stay_its_own_in_a_group(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exceptions = {"blue": {"target_updates": 3, "batch_size": 2}}
    ctx, goal = context(llama, tasks, tmp_path, targets=("goal", "blue"), per_task=exceptions)
    blue = EncodedTask.of(tasks["blue"], llama)
    ctx.targets = [goal, blue]
    titles, original = [], Context.run

    def spy(self: Context, title: str, *rest, **more):
        result = original(self, title, *rest, **more)
        titles.append((title, result.reused))
        return result

    monkeypatch.setattr(Context, "run", spy)
    spent = {"goal": (6, 24), "blue": (3, 6)}
    for task in (blue, goal):
        result = METHODS["MPT-group"].run(ctx.of(task, "MPT-group"), task)
        assert (result.target_updates, result.target_examples) == spent[task.name]
    groups = [reused for title, reused in titles if title == "goal, blue: MPT-group"]
    assert groups == [False, True], "one training, whichever target is asked for"


def test_a_group_has_one_rate() -> None:
    rates = {"goal": {"target_learning_rate": 0.5}}
    with pytest.raises(ValueError, match=r"MPT-group trains its targets together: want one rate .* 0\.5 for goal, 0"):
        RunConfig(targets=("goal", "blue"), methods=("MPT-group",), target_learning_rate=0.1, per_task=rates)
    RunConfig(targets=("goal",), methods=("MPT-group",), per_task=rates)
    RunConfig(targets=("goal", "blue"), methods=("MPT",), per_task=rates)


def test_a_group_of_one_is_mpt(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, goal = context(llama, tasks, tmp_path)
    alone, group = METHODS["MPT"].run(ctx, goal), METHODS["MPT-group"].run(ctx, goal)
    assert torch.equal(alone.prompt, group.prompt)
    eight = MultitaskPrompt(torch.zeros(100, 768), 8)
    assert eight.trainable_parameters() // 8 == 10_468  # MPT* on eight targets


@pytest.mark.slow
def test_fused_and_plain_operations_give_one_loss_curve(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    curves = []
    for backend in ("cpu", "reference"):
        ctx, target = context(llama, tasks, tmp_path / backend, mpt={"rank": 2, "source_updates": 50})
        ctx.config.target_updates = 50
        with pk.use_backend(backend):
            result = METHODS["MPT"].run(ctx, target)
        curves.append([torch.tensor(result.history[name], dtype=torch.float64) for name in ("source_loss", "loss")])
    for fused, plain in zip(*curves, strict=True):
        assert len(fused) == 50
        torch.testing.assert_close(fused, plain, rtol=1e-5, atol=0)
