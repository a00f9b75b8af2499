"""CrossPT: attention over shared source prompts and a private prompt, targets trained together."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from literal import literal_answer_logits, literal_logits
from recipes import context, random
from torch import Tensor

from prompttransfer import RunConfig
from prompttransfer.methods import METHODS, Context, EncodedTask, MethodResult
from prompttransfer.methods.base import Scope, all_stages
from prompttransfer.methods.crosspt import CrossTaskPrompt
from prompttransfer.methods.shared import source_prompts
from prompttransfer.models import Backbone
from prompttransfer.prompts import FrozenPrompts
from prompttransfer.tasks.task import Task
from prompttransfer.training.trainer import Plan

PRIVATE = pytest.mark.parametrize("private", ["added", "attended"])
SLOW = 1e-9  # a rate that leaves everything where it starts
NO_SCHEDULE: dict[str, Any] = {"schedule": "constant_with_warmup", "warmup_updates": 0, "max_grad_norm": 0}


def literal(sources: Tensor, private: Tensor, logits: Tensor) -> Tensor:
    """All prompts (T, L, H) by the formula, one number of a softmax after the other."""
    prompts = []
    for own, row in zip(private, logits, strict=True):
        weights = row.exp() / row.exp().sum()
        attended = [*sources, own][: len(row)]
        total = sum(weight * prompt for weight, prompt in zip(weights, attended, strict=True))
        prompts.append(total if len(row) > len(sources) else total + own)
    return torch.stack(prompts)


def module(private: str = "added", **settings: Any) -> CrossTaskPrompt:
    """Three sources and two targets away from their start, in float64."""
    prompt = CrossTaskPrompt(random(3, 4, 6), random(2, 4, 6, seed=1), attended=private == "attended", **settings)
    with torch.no_grad():
        prompt.logits.copy_(random(*prompt.logits.shape, seed=2))
    return prompt.double()


@PRIVATE
def test_prompts_are_those_of_the_formula(private: str) -> None:
    prompt = module(private)
    expected = literal(prompt.sources, prompt.private, prompt.logits)
    for task in range(2):
        torch.testing.assert_close(prompt.composed(task), expected[task].detach())
    embeds, tasks = random(3, 5, 6, seed=3).double(), torch.tensor([1, 0, 1])
    got = prompt.prepend(embeds, tasks)
    torch.testing.assert_close(got, torch.cat([expected[tasks], embeds], dim=1))
    with pytest.raises(ValueError, match=r"task_ids: got none, want one id in 0\.\.1"):
        prompt.prepend(embeds)


@PRIVATE
@pytest.mark.parametrize("train_sources", [True, False])
def test_gradients_are_those_of_the_formula(private: str, train_sources: bool) -> None:
    prompt = module(private, train_sources=train_sources)
    tasks, embeds, factors = torch.tensor([1, 0, 1]), torch.zeros(3, 0, 6).double(), random(3, 4, 6, seed=4).double()
    (prompt.prepend(embeds, tasks) * factors).sum().backward()
    leaves = [each.detach().clone().requires_grad_() for each in (prompt.sources, prompt.private, prompt.logits)]
    (literal(*leaves)[tasks] * factors).sum().backward()
    for got, want in zip((prompt.sources, prompt.private, prompt.logits), leaves, strict=True):
        if got is prompt.sources and not train_sources:
            assert got.grad is None
        else:
            torch.testing.assert_close(got.grad, want.grad)
    rates = [group["lr"] for group in prompt.parameter_groups(0.3, 0.2, 0.1)]
    assert rates == ([0.3, 0.2, 0.1] if train_sources else [0.3, 0.1])


def group_of(
    backbone: Backbone, tasks: dict[str, Task], folder: Path, **settings: Any
) -> tuple[Context, list[EncodedTask]]:
    """Sources red and green, targets blue and goal."""
    named = {"sources": ("red", "green"), "targets": ("blue", "goal")}
    ctx, goal = context(backbone, tasks, folder, **named | settings)
    ctx.targets = [EncodedTask.of(tasks["blue"], backbone, ctx.config.scoring), goal]
    return ctx, ctx.targets


def run_all(ctx: Context, targets: list[EncodedTask]) -> list[MethodResult]:
    return [METHODS["CrossPT"].run(ctx.of(target, "CrossPT"), target) for target in targets]


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Plan, bool]]:
    """The stages that were run, in order: title, plan, and whether it was found in the store."""
    seen: list[tuple[str, Plan, bool]] = []
    original = Context.run

    def spy(self: Context, title: str, plan: Plan, settings: dict[str, Any] | None = None, **named):
        result = original(self, title, plan, settings, **named)
        seen.append((title, plan, result.reused))
        return result

    monkeypatch.setattr(Context, "run", spy)
    return seen


@PRIVATE
def test_training_is_adamw_on_the_literal_formula(
    backbone: Backbone, tasks: dict[str, Task], tmp_path: Path, private: str
) -> None:
    """Rows are read one by one, without batches or any of the package's training."""
    rates = {"source_learning_rate": 0.03, "attention_learning_rate": 0.2}
    ctx, targets = group_of(
        backbone, tasks, tmp_path, target_learning_rate=0.05, crosspt={"private": private} | rates, **NO_SCHEDULE
    )
    results = run_all(ctx, targets)
    starts = torch.stack(source_prompts(ctx)), (ctx.start if private == "attended" else torch.zeros(3, 16))
    sources, own = starts[0].clone().requires_grad_(), starts[1].repeat(2, 1, 1).requires_grad_()
    logits = torch.zeros(2, 2 + (private == "attended"), requires_grad=True)
    groups = [{"params": [sources], "lr": 0.03}, {"params": [own], "lr": 0.05}, {"params": [logits], "lr": 0.2}]
    optimizer = torch.optim.AdamW(groups, weight_decay=ctx.config.weight_decay)
    curve = []
    for batches in zip(*(ctx.target_batches(target) for target in targets), strict=True):
        losses = []
        for place, (target, batch) in enumerate(zip(targets, batches, strict=True)):
            for row in (target.train[index] for index in batch):
                prompt = _Fixed(literal(sources, own, logits)[place])
                answer = literal_answer_logits(backbone, prompt, row.ids, row.answer)
                losses.append(torch.nn.functional.cross_entropy(answer, torch.tensor(row.answer)))
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    for place, result in enumerate(results):
        torch.testing.assert_close(result.prompt, literal(sources, own, logits)[place].detach(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close([loss for _, loss in result.history["loss"]], curve, rtol=1e-3, atol=1e-3)
        weights = logits[place].softmax(dim=0).tolist()
        names = ["red", "green", targets[place].name][: len(weights)]
        assert result.history["attention"] == pytest.approx(dict(zip(names, weights, strict=True)), abs=1e-3)
    assert max(abs(logits.detach().flatten().numpy())) > 0.1  # the attention has learned something


class _Fixed:
    """Interface of a prompt for the literal forward, with its own graph."""

    def __init__(self, prompt: Tensor) -> None:
        self.prompt = prompt

    def prepend(self, embeds: Tensor, task_ids: Tensor) -> Tensor:
        return torch.cat([self.prompt[None], embeds], dim=1)


@PRIVATE
def test_a_target_starts_at_the_mean_of_what_it_attends_to(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, private: str
) -> None:
    still = {"private": private, "attention_learning_rate": SLOW}
    ctx, targets = group_of(llama, tasks, tmp_path, learning_rate=0.5, target_learning_rate=SLOW, crosspt=still)
    attended = [*source_prompts(ctx), *([ctx.start] if private == "attended" else [])]
    expected = np.mean([prompt.double().numpy() for prompt in attended], axis=0)
    for result in run_all(ctx, targets):
        np.testing.assert_allclose(result.prompt, expected, rtol=1e-4, atol=1e-5)


def test_every_target_spends_the_budget_it_has_alone_in_one_training(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, stages: list[tuple[str, Plan, bool]]
) -> None:
    exceptions = {"blue": {"target_updates": 3, "batch_size": 2}}
    ctx, targets = group_of(llama, tasks, tmp_path, per_task=exceptions)
    results = run_all(ctx, targets)
    assert [(result.target_updates, result.target_examples) for result in results] == [(3, 6), (6, 24)]
    assert [result.source_updates for result in results] == [8, 8]
    joint = [(plan, reused) for title, plan, reused in stages if title == "blue, goal: CrossPT"]
    assert [reused for _, reused in joint] == [False, True]
    rows, batches = joint[0][0].rows, joint[0][0].batches
    for place, target in enumerate(targets):
        read = [[rows[row].ids for row in batch if rows[row].task == place] for batch in batches]
        alone = [[target.train[row].ids for row in batch] for batch in ctx.of(target).target_batches(target)]
        assert [batch for batch in read if batch] == alone
    assert not torch.allclose(results[0].prompt, results[1].prompt)
    assert [result.notes for result in results] == ["with goal", "with blue"]


@PRIVATE
def test_the_matrix_of_a_target_answers_as_the_module_does(
    backbone: Backbone, tasks: dict[str, Task], tmp_path: Path, stages: list[tuple[str, Plan, bool]], private: str
) -> None:
    ctx, targets = group_of(backbone, tasks, tmp_path, target_learning_rate=0.3, crosspt={"private": private})
    results = run_all(ctx, targets)
    prompt = stages[-1][1].prompt
    for place, (target, result) in enumerate(zip(targets, results, strict=True)):
        assert result.module is None and result.prompt.shape == (3, 16)
        ids = torch.full((len(target.test),), place)
        with torch.no_grad():
            want = literal_logits(backbone, prompt, target.test, ids)
            got = literal_logits(backbone, FrozenPrompts(result.prompt[None]), target.test)
        torch.testing.assert_close(got, want)
        chosen = want[:, list(target.answers)].squeeze(-1).argmax(dim=1).tolist()
        assert ctx.evaluate("score", target, result.evaluated).predictions == chosen


class Sized(NamedTuple):
    """A task as `validate` knows it."""

    name: str
    train: int


@pytest.mark.parametrize("settings", [{}, {"private": "attended"}, {"train_sources": False}])
def test_declared_stages_are_those_that_run(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, stages: list[tuple[str, Plan, bool]], settings: dict
) -> None:
    exceptions = {"blue": {"target_updates": 3, "batch_size": 2}}
    ctx, targets = group_of(llama, tasks, tmp_path, methods=("CrossPT",), crosspt=settings, per_task=exceptions)
    run_all(ctx, targets)
    run = [
        (len(plan.batches), len(plan.batches[0]), plan.prompt.trainable_parameters(), plan.prompt.count)
        for _, plan, reused in stages
        if not reused
    ]
    sources, goals = (tuple(Sized(task.name, len(task.train)) for task in group) for group in (ctx.sources, targets))
    scope = Scope(ctx.config, sources, goals, length=3, hidden=16)
    declared = [stage for stage, _ in all_stages([METHODS["CrossPT"]], scope)]
    assert [(stage.updates, stage.batch, stage.trained, stage.prompts) for stage in declared] == run
    assert [stage.title for stage in declared] == ["source red", "source green", "2 targets: CrossPT"]


def test_a_stage_is_known_by_its_settings(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, stages: list[tuple[str, Plan, bool]]
) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"private": "attended"},
        {"train_sources": False},
        {"source_learning_rate": 0.7},
        {"attention_learning_rate": 0.7},
    ]
    first = {}
    for again in (False, True):
        for place, settings in enumerate(changes):
            ctx, targets = group_of(llama, tasks, tmp_path, crosspt=settings)
            result = run_all(ctx, targets[:1])[0]
            assert stages[-1][2] is again
            values = (result.prompt.tolist(), result.history["attention"])
            assert first.setdefault(place, values) == values
    prompts = [prompt for prompt, _ in first.values()]
    assert all(prompts.count(prompt) == 1 for prompt in prompts)


def test_its_targets_have_one_rate() -> None:
    rates = {"goal": {"target_learning_rate": 0.5}}
    with pytest.raises(ValueError, match=r"CrossPT trains its targets together: want one rate .* 0\.5 for goal, 0"):
        RunConfig(targets=("goal", "blue"), methods=("CrossPT",), target_learning_rate=0.1, per_task=rates)
    RunConfig(targets=("goal",), methods=("CrossPT",), per_task=rates)
