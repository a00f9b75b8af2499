"""Properties shared by all methods."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import context

import promptkernels as pk
from prompttransfer.methods import METHODS, Context
from prompttransfer.methods.shared import similarity_history
from prompttransfer.models import Backbone
from prompttransfer.tasks.task import Task


def test_every_method_spends_the_same_target_budget_on_the_same_rows(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    original = Context.run

    def spy(self: Context, title: str, plan, settings=None, **named):
        if title.startswith("goal"):
            seen.extend(list(batch) for batch in plan.batches)
        return original(self, title, plan, settings, **named)

    monkeypatch.setattr(Context, "run", spy)
    budgets, batches = set(), []
    for name, method in METHODS.items():
        ctx, target = context(llama, tasks, tmp_path)
        seen.clear()
        result = method.run(ctx, target)
        budgets.add((result.target_updates, result.target_examples))
        batches.append(list(seen))
        assert result.prompt.shape == (1 if name == "DePT" else 3, 16)
        assert torch.isfinite(result.prompt).all()
        assert [update for update, _ in result.history["loss"]] == list(range(1, 7))
    assert budgets == {(6, 24)}
    assert all(other == batches[0] for other in batches)


def test_source_updates_are_counted(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path)
    spent = {name: method.run(ctx, target).source_updates for name, method in METHODS.items()}
    prompts_of_sources = dict.fromkeys(METHODS, 12)
    assert spent == prompts_of_sources | {"PT": 0, "DePT": 0, "Multi-PT": 4, "MPT": 16, "MPT-group": 16, "BMTPT": 4}
    assert ctx.progress.notes == []  # nothing comes from an earlier run
    again, target = context(llama, tasks, tmp_path)
    METHODS["DTVG"].run(again, target)
    assert again.progress.notes.count("source red: reused from the store") == 1


def test_budgets_in_epochs_are_honoured_by_every_method(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    settings = {
        "source_epochs": 0.5,  # 30 rows of a source in batches of 6: 3 updates; 90 rows together, 15 batches: 7
        "target_epochs": {0: 2, 30: 1},  # 30 rows in batches of 5: 6 updates
        "per_task": {"go*": {"batch_size": 5, "target_learning_rate": 0.5}},
        "dtvg": {"own_updates": 2, "own_learning_rate": 0.1},
        "bmtpt": {"rows": 2, "source_epochs": 0.1},  # 90 rows, 45 batches of 2: 4 updates
        "warmup_updates": 2,
    }
    plans = []
    for name, method in METHODS.items():
        ctx, target = context(llama, tasks, tmp_path / name, **settings)
        original = ctx.of(target)
        result = method.run(original, target)
        plans.append((result.target_updates, result.target_examples))
        spent = {"PT": 0, "DePT": 0, "Multi-PT": 7, "MPT": 16, "MPT-group": 16, "BMTPT": 4}
        assert result.source_updates == spent.get(name, 9), name  # 9: a prompt of each source
    assert set(plans) == {(8, 40)}, "6 updates of 5 rows, and 2 for the own vector, which every method gets"


def test_rates_warm_up_and_decay_of_a_task_reach_the_plan(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = {}
    original = Context.run

    def spy(self: Context, title: str, plan, settings=None, **named):
        plans[title] = plan
        return original(self, title, plan, settings, **named)

    monkeypatch.setattr(Context, "run", spy)
    ctx, target = context(
        llama,
        tasks,
        tmp_path,
        per_task={"goal": {"target_learning_rate": 0.5}},
        dtvg={"own_updates": 2, "own_learning_rate": 0.1, "weight_decay": 0.3},
        warmup_updates=3,
    )
    METHODS["DTVG"].run(ctx.of(target), target)
    own, merged = plans["goal: own prompt"], plans["goal: DTVG"]
    assert (own.learning_rate, own.weight_decay, own.warmup_updates, len(own.batches)) == (0.1, 1e-5, 3, 2)
    assert (merged.learning_rate, merged.weight_decay, len(merged.batches)) == (0.5, 0.3, 6)
    assert plans["source red"].learning_rate == 0.02


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("backbone", "scoring"),
    [
        ("llama", "full"),
        ("t5", "generate"),
        pytest.param("llama", "generate", marks=pytest.mark.slow),
        pytest.param("t5", "full", marks=pytest.mark.slow),
    ],
    indirect=["backbone"],
)
def test_every_method_trains_on_whole_answers(
    backbone: Backbone, tasks: dict[str, Task], tmp_path: Path, method: str, scoring: str
) -> None:
    for name, task in tasks.items():
        tasks[name] = replace(task, choices=("no w1 w2", "no w3"))
    ctx, target = context(backbone, tasks, tmp_path, scoring=scoring)
    assert {len(row.answer) for row in target.train} == {3, 4}
    result = METHODS[method].run(ctx, target)
    evaluation = ctx.evaluate("score", target, result.evaluated)
    assert torch.isfinite(result.prompt).all() and len(evaluation.predictions) == 30
    assert set(evaluation.predictions) <= ({0, 1} if scoring == "full" else {-1, 0, 1})


@pytest.mark.parametrize(
    ("method", "ops"),
    [
        ("SPoT", {"task_similarity"}),
        ("TPV", {"merge_task_vectors", "task_similarity"}),
        ("MPT", {"prepend_prompts", "compose_prompts"}),
        ("BMTPT", {"svgd_direction"}),
        ("DTVG", {"task_similarity", "select_group", "merge_task_vectors"}),
        ("CrossPT", {"merge_task_vectors"}),
        ("PANDA", {"task_similarity"}),
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
    METHODS[method].run(ctx, target)
    assert set(calls) == ops
    per_step = {"MPT": ("prepend_prompts", 4 + 6), "BMTPT": ("svgd_direction", 4), "DTVG": ("select_group", 3)}
    if method in per_step:
        name, least = per_step[method]
        assert calls[name] >= least


def test_histories_name_groups_and_similarities(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path)
    history = METHODS["DTVG"].run(ctx, target).history
    assert [update for update, _ in history["groups"]] == [4, 5, 6]
    assert {name for _, names in history["groups"] for name in names} <= {"red", "green", "blue"}
    assert history["similarity"]["names"] == ["red", "green", "blue", "goal"]
    matrix = torch.tensor(history["similarity"]["matrix"])
    torch.testing.assert_close(matrix.diagonal(), torch.ones(4))


def test_prompt_tuning_learns_a_toy_source(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(llama, tasks, tmp_path, target_learning_rate=1.0)
    ctx.config.target_updates = 120
    history = METHODS["PT"].run(ctx, target).history["loss"]
    first, last = (sum(loss for _, loss in part) / 10 for part in (history[:10], history[-10:]))
    assert last < 0.75 * first


def test_history_of_many_sources_keeps_some_and_the_target() -> None:
    start, prompts = torch.zeros(2, 3), torch.randn(100, 2, 3, generator=torch.Generator().manual_seed(0))
    names = [str(number) for number in range(100)]
    similarity = similarity_history(names, prompts, start)
    assert similarity["names"] == [*names[:63], "99"] and np.shape(similarity["matrix"]) == (64, 64)
    rows = prompts.flatten(1).double().numpy()
    wanted = rows @ rows[99] / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows[99])
    np.testing.assert_allclose(similarity["matrix"][-1], [*wanted[:63], 1], atol=1e-6)
    assert similarity_history(names[:64], prompts[:64], start)["names"] == names[:64]


def test_batches_before_the_transfer_of_dtvg_have_their_own_size_for_every_method(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    own = {"own_updates": 3, "own_batch_size": 6}
    ctx, target = context(llama, tasks, tmp_path, dtvg=own)
    batches = ctx.target_batches(target)
    assert [len(batch) for batch in batches] == [6, 6, 6, *[4] * 6]
    for part in (batches[:3], batches[3:]):  # no row of 30 comes twice
        rows = [row for batch in part for row in batch]
        assert len(rows) == len(set(rows)) and set(rows) < set(range(30))
    for method in ("PT", "SPoT", "DTVG"):
        result = METHODS[method].run(ctx, target)
        assert (result.target_updates, result.target_examples) == (9, 3 * 6 + 6 * 4)
    equal, target = context(llama, tasks, tmp_path, dtvg={"own_updates": 3, "own_batch_size": 4})
    plain, _ = context(llama, tasks, tmp_path, dtvg={"own_updates": 3})
    assert equal.target_batches(target) == plain.target_batches(target)
