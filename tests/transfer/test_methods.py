"""What all recipes have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from recipes import context

import promptkernels as pk
from prompttransfer.methods import METHODS, Context
from prompttransfer.models import Backbone
from prompttransfer.tasks.task import Task


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
    for method in METHODS.values():
        ctx, target = context(llama, tasks, tmp_path)
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
    transfer = {"SPoT": 12, "TPV": 12, "ATTEMPT": 12, "MPT": 16, "MPT-group": 16, "BMTPT": 4, "DTVG": 12}
    assert spent == {"PT": 0, "Multi-PT": 4} | transfer
    assert ctx.progress.notes == []  # nothing comes from an earlier run
    again, target = context(llama, tasks, tmp_path)
    METHODS["DTVG"](again, target)
    assert again.progress.notes.count("source red: reused from the store") == 1


@pytest.mark.parametrize(
    ("method", "ops"),
    [
        ("SPoT", {"task_similarity"}),
        ("TPV", {"merge_task_vectors", "task_similarity"}),
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
