"""Losses, samplers and recipes of the methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
import torch
from recipes import batch_of, context, random

import promptkernels as pk
from prompttransfer.methods import METHODS, Context
from prompttransfer.methods.objectives import (
    DistillationLoss,
    hidden_distillation,
    logit_distillation,
    task_loss,
)
from prompttransfer.methods.sampler import (
    flatten,
    mixing_probabilities,
    row_batches,
    split_updates,
    task_batches,
)
from prompttransfer.models import Backbone
from prompttransfer.prompts import FrozenPrompts, MultitaskPrompt, SoftPrompt
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
    teacher = backbone(teachers, batch, task_ids=ids, hidden="last")
    expected = task_loss(backbone, prompt, batch) + 0.9 * (
        logit_distillation(student.logits, teacher.logits) + hidden_distillation(student, teacher)
    )
    torch.testing.assert_close(DistillationLoss(teachers)(backbone, prompt, batch), expected)
    torch.testing.assert_close(
        DistillationLoss(teachers, weight=0.0)(backbone, prompt, batch), task_loss(backbone, prompt, batch)
    )


def test_hidden_distillation_ignores_padding(llama: Backbone) -> None:
    prompt, teachers = SoftPrompt(random(3, 16)), FrozenPrompts(random(1, 3, 16, seed=1))

    def loss(rows: list[list[int]]) -> torch.Tensor:
        batch = llama.collate(rows)
        student = llama(prompt, batch, hidden="last", hidden_positions="text")
        return hidden_distillation(student, llama(teachers, batch, hidden="last"))

    short, long = loss([[13]]), loss([[10, 11, 12, 14, 15]])
    torch.testing.assert_close(loss([[13], [10, 11, 12, 14, 15]]), (short + 5 * long) / 6, rtol=1e-4, atol=1e-5)


# samplers


def test_row_batches_use_every_row_once_before_any_twice() -> None:
    batches = row_batches(10, 4, 10, seed=3)
    flat = [row for batch in batches for row in batch]
    for epoch in range(4):
        assert sorted(flat[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert batches == row_batches(10, 4, 10, seed=3) != row_batches(10, 4, 10, seed=4)
    assert row_batches(10, 4, 5, seed=3) == batches[:5]


def test_length_buckets_keep_the_rows_and_save_padding() -> None:
    lengths = [(index * 37) % 50 for index in range(64)]
    plain = row_batches(64, 8, 8, seed=0)
    bucketed = row_batches(64, 8, 8, seed=0, lengths=lengths)
    assert sorted(chain(*plain)) == sorted(chain(*bucketed))
    width = [sum(max(lengths[row] for row in batch) for batch in batches) for batches in (plain, bucketed)]
    assert width[1] < 0.7 * width[0]


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


def test_flatten_and_split() -> None:
    assert flatten([[(0, 1), (1, 0), (2, 2)]], [3, 4, 5]) == [[1, 3, 9]]
    assert split_updates(30, 0.5) == (15, 15)
    assert split_updates(3, 0.01) == (1, 2)
    with pytest.raises(ValueError, match="budget of 1"):
        split_updates(1, 0.5)


# recipes


def test_every_method_spends_the_same_target_budget_on_the_same_rows(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    original = Context.run

    def spy(self: Context, title: str, plan, settings=None):
        if title.startswith("goal"):
            seen.extend(list(batch) for batch in plan.batches)
        return original(self, title, plan, settings)

    monkeypatch.setattr(Context, "run", spy)
    budgets, batches = set(), []
    for name, method in METHODS.items():
        ctx, target = context(llama, tasks, tmp_path / name)
        seen.clear()
        result = method(ctx, target)
        budgets.add((result.target_updates, result.target_examples))
        batches.append(list(seen))
        assert result.prompt.shape == (3, 16)
        assert torch.isfinite(result.prompt).all()
        assert [update for update, _ in result.history["loss"]] == list(range(1, 7))
    assert budgets == {(6, 24)}
    assert all(found == batches[0] for found in batches)


def test_source_updates_are_counted(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path)
    spent = {name: method(ctx, target).source_updates for name, method in METHODS.items()}
    assert spent == {"PT": 0, "SPoT": 12, "MPT": 16, "BMTPT": 4, "DTVG": 12}
    assert ctx.progress.notes == []  # nothing comes from an earlier run
    again, target = context(llama, tasks, tmp_path)
    METHODS["DTVG"](again, target)
    assert again.progress.notes.count("source red: reused from the store") == 1


@pytest.mark.parametrize(
    ("method", "ops"),
    [
        ("SPoT", {"task_similarity"}),
        ("MPT", {"prepend_prompts", "compose_prompts"}),
        ("BMTPT", {"svgd_direction"}),
        ("DTVG", {"task_similarity", "select_group", "merge_task_vectors"}),
    ],
)
def test_the_training_steps_call_the_kernels(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, ops: set[str]
) -> None:
    calls: Counter[str] = Counter()

    def counting(name: str) -> Callable:
        original = getattr(pk, name)

        def counted(*args, **kwargs):
            calls[name] += 1
            return original(*args, **kwargs)

        return counted

    for name in ops:
        monkeypatch.setattr(pk, name, counting(name))
    ctx, target = context(llama, tasks, tmp_path)
    METHODS[method](ctx, target)
    assert set(calls) == ops
    per_step = {"MPT": ("prepend_prompts", 4 + 6), "BMTPT": ("svgd_direction", 4), "DTVG": ("select_group", 3)}
    if method in per_step:
        name, least = per_step[method]
        assert calls[name] >= least


def test_histories_name_groups_and_similarities(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path)
    history = METHODS["DTVG"](ctx, target).history
    assert [update for update, _ in history["groups"]] == [4, 5, 6]
    assert {name for _, names in history["groups"] for name in names} <= {"red", "green", "blue"}
    assert history["similarity"]["names"] == ["red", "green", "blue", "goal"]
    matrix = torch.tensor(history["similarity"]["matrix"])
    torch.testing.assert_close(matrix.diagonal(), torch.ones(4))


def test_prompt_tuning_learns_a_toy_source(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path, target_learning_rate=1.0)
    ctx.config.target_updates = 120
    history = METHODS["PT"](ctx, target).history["loss"]
    first, last = (sum(loss for _, loss in part) / 10 for part in (history[:10], history[-10:]))
    assert last < 0.75 * first
