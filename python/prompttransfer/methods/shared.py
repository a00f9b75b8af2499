"""Stages shared by several methods: source prompts (also MPT's teachers), a target's own prompt, joint targets."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

import promptkernels as pk
from prompttransfer.files.store import StageResult
from prompttransfer.methods.budget import source_updates, target_budget
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.sampler import flatten, row_batches, split_updates
from prompttransfer.models.rows import EncodedRows
from prompttransfer.prompts import PromptModule, SoftPrompt
from prompttransfer.training.history import History, Similarity

_SHOWN = 64  # a larger matrix is unreadable as a picture and takes megabytes per row of the results


def source_prompt(ctx: Context, source: EncodedTask) -> tuple[Tensor, StageResult]:
    """Tune a prompt on one source from P_init; return the prompt (L, H) and the stage's result."""
    config = ctx.config
    lengths = source.train.lengths
    updates = source_updates(config, len(source.train))
    batches = row_batches(len(source.train), config.source_batch_size, updates, ctx.source_seed, lengths=lengths)
    prompt = SoftPrompt(ctx.start)
    plan = ctx.plan(prompt, task_loss, source.train, batches, config.learning_rate, [source])
    result = ctx.run(f"source {source.name}", plan, seed=ctx.source_seed)
    return prompt.composed().cpu(), result


def source_prompts(ctx: Context) -> list[Tensor]:
    """Prompts of all sources, in order; trained once, then loaded from the store."""
    return [source_prompt(ctx, source)[0] for source in ctx.sources]


def source_cost(ctx: Context) -> int:
    """Number of updates that the prompts of all sources take."""
    return sum(source_updates(ctx.config, len(source.train)) for source in ctx.sources)


def joined_rows(tasks: Sequence[EncodedTask]) -> tuple[EncodedRows, list[int]]:
    """Concatenate the training rows of several tasks, with the task's index as task id; also return the row counts."""
    return EncodedRows.one_task_each(task.train for task in tasks), [len(task.train) for task in tasks]


def own_prompt(
    ctx: Context, target: EncodedTask, updates: int, rate: float | None = None
) -> tuple[Tensor, StageResult, list[list[int]]]:
    """Tune the target's prompt from P_init with the first updates of its budget.

    Args:
        rate: peak learning rate; None: the target's.

    Returns:
        the prompt (L, H), the stage's result, and the batches left for the transfer stage.
    """
    batches, prompt = ctx.target_batches(target), SoftPrompt(ctx.start)
    result = ctx.tune("own prompt", prompt, target, batches[:updates], rate=rate)
    return prompt.composed().cpu(), result, batches[updates:]


def train_together(
    ctx: Context,
    group: Sequence[EncodedTask],
    place: int,
    prompt: PromptModule,
    parameters: list[dict[str, Any]],
    title: str,
    source_updates: int,
) -> MethodResult:
    """Train a prompt of several targets; return the result of target `place`, with its share of parameters and time.

    An update reads the batch that every target would read alone, so each target spends its usual budget.

    Args:
        group: the targets, in the order of the module's prompts.
        parameters: parameter groups with their rates. The plan's rate is that of the first.
    """
    rows, sizes = joined_rows(group)
    # Once a target's budget is spent, the remaining updates have no rows of it.
    alone = [ctx.target_batches(task) for task in group]
    updates = zip_longest(*alone, fillvalue=[])
    batches = flatten([[(task, row) for task, own in enumerate(update) for row in own] for update in updates], sizes)
    plan = ctx.plan(prompt, task_loss, rows, batches, parameters[0]["lr"], group, groups=parameters)
    names = [task.name for task in group]
    stage = ctx.run(f"{', '.join(names)}: {title}", plan)
    others = ", ".join(names[:place] + names[place + 1 :])
    result = MethodResult.of(
        prompt.composed(place), stage, source_updates=source_updates, notes=f"with {others}" if others else ""
    )
    result.trainable_parameters //= len(group)
    result.target_updates, result.target_examples = len(alone[place]), sum(map(len, alone[place]))
    result.seconds /= len(group)
    return result


def own_share(ctx: Context, target: EncodedTask, fraction: float) -> int:
    """A fraction of the target's budget, in updates."""
    return split_updates(target_budget(ctx.config, len(target.train)).total, fraction)[0]


def after_own(
    ctx: Context,
    target: EncodedTask,
    sources: Tensor,
    own: Tensor,
    prompt: Tensor,
    stages: Sequence[StageResult],
    notes: str,
    history: History | None = None,
) -> MethodResult:
    """Result of a prompt trained after the target's own prompt, which was compared with sources (K, L, H)."""
    names = [*(source.name for source in ctx.sources), target.name]
    similarity = similarity_history(names, torch.cat([sources, own[None]]), ctx.start)
    return MethodResult.of(
        prompt,
        *stages,
        other_prompts={"own": own},
        source_updates=source_cost(ctx),
        history={**(history or {}), "similarity": similarity},
        notes=notes,
    )


def similarity_history(names: list[str], prompts: Tensor, start: Tensor) -> Similarity:
    """Cosines of task vectors, prompts (T, L, H), for the report. Beyond 64 prompts: the first 63 and the last."""
    if len(names) > _SHOWN:
        names, prompts = [*names[: _SHOWN - 1], names[-1]], torch.cat([prompts[: _SHOWN - 1], prompts[-1:]])
    return {"names": names, "matrix": pk.task_similarity(prompts, start).tolist()}
