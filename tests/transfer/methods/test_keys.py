"""Keys of stages in the store: everything that changes a result changes its key, so no old result is reused for it."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes import context

from prompttransfer.files.store import StageResult, key_hash
from prompttransfer.methods import Context
from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import SoftPrompt
from prompttransfer.tasks.task import Task
from prompttransfer.training.plan import Plan
from prompttransfer.training.selection import Selection

ROWS = [EncodedRow((10, 11), (4,)), EncodedRow((12,), (5,)), EncodedRow((13, 14), (4,))]
# Of a plan: what replaces each field. The objective and what goes before a step are told by their settings; how
# processes share a batch changes no result.
PLANS: dict[str, Any] = {
    "prompt": lambda plan: SoftPrompt(torch.ones(3, 16)),
    "rows": lambda plan: [*ROWS[:2], EncodedRow((13, 14), (5,))],
    "batches": lambda plan: [[0, 1], [2, 1]],
    "learning_rate": lambda plan: 0.2,
    "groups": lambda plan: [{"params": list(plan.prompt.parameters()), "lr": 0.3}],
    "schedule": lambda plan: "cosine",
    "warmup_updates": lambda plan: 1,
    "weight_decay": lambda plan: 0.1,
    "max_grad_norm": lambda plan: 0.5,
    "selection": lambda plan: Selection([], 2),
    "horizon": lambda plan: 5,
    "offset": lambda plan: 1,
}
# The seed of dropout follows from the key.
NOT_READ = {"objective", "before_step", "whole_batches", "dropout"}
# Fields of a scored task.
TASKS: dict[str, Any] = {
    "metrics": ("macro-f1",),
    "test": ((10,), (11, 12)),
    "labels": (1, 1),
    "answers": ((4,), (6,)),
    "choices": ("no", "maybe"),
    "references": (("x",), ("y",)),
    "scoring": "full",
    "max_answer": 3,
}


class Asked(Exception):
    """The key requested from the store."""


@pytest.fixture
def ctx(llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    ctx, _ = context(llama, tasks, tmp_path)

    def cached(key: dict[str, Any], *rest: object) -> StageResult:
        raise Asked(key_hash(key))

    monkeypatch.setattr(ctx.store, "cached", cached)
    return ctx


def plan_key(ctx: Context, settings: dict[str, Any] | None = None, **changes: Any) -> str:
    plan = Plan(SoftPrompt(torch.zeros(3, 16)), task_loss, ROWS, [[0, 1], [1, 2]], 0.1)
    for name, change in changes.items():
        plan = replace(plan, **{name: change(plan)})
    with pytest.raises(Asked) as asked:
        ctx.run("stage", plan, settings)
    return str(asked.value)


def task_key(ctx: Context, prompt: torch.Tensor | None = None, **changes: Any) -> str:
    task = EncodedTask("t", ("accuracy",), (), ((10,), (11,)), "first-token", (0, 1), ((4,), (5,)), ("no", "yes"))
    with pytest.raises(Asked) as asked:
        ctx.evaluate("stage", replace(task, **changes), prompt)
    return str(asked.value)


@pytest.mark.parametrize("name", PLANS)
def test_everything_a_plan_reads_is_in_the_key(ctx: Context, name: str) -> None:
    assert plan_key(ctx) == plan_key(ctx) != plan_key(ctx, **{name: PLANS[name]})


def test_no_field_of_a_plan_is_forgotten_here(ctx: Context) -> None:
    assert {field.name for field in fields(Plan)} == set(PLANS) | NOT_READ
    assert plan_key(ctx) != plan_key(ctx, {"temperature": 2.0})


@pytest.mark.parametrize("name", TASKS)
def test_everything_an_evaluation_reads_is_in_the_key(ctx: Context, name: str) -> None:
    assert task_key(ctx) == task_key(ctx) != task_key(ctx, **{name: TASKS[name]})


def test_prompts_and_models_are_in_the_key(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    plans, tasks = {plan_key(ctx)}, {task_key(ctx), task_key(ctx, torch.zeros(3, 16)), task_key(ctx, torch.ones(3, 16))}
    for name in ("fingerprint", "precision", "placement"):
        with monkeypatch.context() as changed:
            changed.setattr(ctx.backbone, name, "other")
            plans.add(plan_key(ctx))
            tasks.add(task_key(ctx))
    assert (len(plans), len(tasks)) == (4, 6)
