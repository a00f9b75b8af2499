"""Transfer from related sources only: prompt tuning of the target, with related source prompts joining midway.

The first updates of the target's prompt tuning, taken from its budget, show which sources are related (`sign_test`).
The method then makes one or more prompts from these sources, and they join with the largest weight that does not raise
the loss. The schedule and the order of the batches continue. From then on, one scale per token trains. The target's own
prompt trains only on request: on a few rows it soon undoes what the sources learned from thousands.

A related source with different answers raises the loss at every weight. If a source is very similar, the method then
starts from the mean of the transferred prompts and trains all of its values. Otherwise, and if no source is related,
this is prompt tuning, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

import promptkernels as pk
from prompttransfer.files.store import StageResult
from prompttransfer.methods.base import Scope, SizedTask, Stage
from prompttransfer.methods.budget import TargetBudget, target_budget, updates_of_epochs
from prompttransfer.methods.choosing import training_losses
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.pt import PT
from prompttransfer.methods.sampler import split_updates
from prompttransfer.methods.shared import source_cost, source_prompts
from prompttransfer.models.rows import EncodedRows
from prompttransfer.prompts import JoinedPrompt, PromptModule, SoftPrompt
from prompttransfer.settings.base import Settings
from prompttransfer.settings.run import RunConfig
from prompttransfer.training.history import Related


class RelatedConfig(Settings):
    """Which sources count as related to a target, for methods that transfer from related sources only."""

    block: ClassVar[str] = "related"

    own_fraction: float = Field(0.25, gt=0, lt=1)
    """Fraction of the target's budget for the first updates, by plain prompt tuning. They show which sources are
    related."""
    own_epochs: float = Field(3.0, gt=0)
    """Largest number of epochs of the first updates over the target's rows. The loss on rows that the target's own
    prompt has learned by heart would let nothing join."""
    level: float = Field(0.75, ge=-1, le=1)
    """Threshold of the sign-flip test: a source is related if its z is at least this fraction of the maximum,
    sqrt(L)."""
    join_weights: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.5, 1.0), min_length=1)
    """Weights w to try for the prompt P_init + (1 - w) T_t + w * mean T_s. The largest w whose loss on the next two
    batches is not above that of w = 0 is used. The search costs one update for every three batches it reads, or none if
    the result is prompt tuning."""
    close: float = Field(0.875, ge=-1)
    """A source is close if its z is at least this fraction of the maximum. If every weight raises the loss and a source
    is close, the rest of the budget trains the prompt P_init + mean T_s at PT's learning rate. Values above 1 turn this
    off."""
    trained: Literal["scales", "both"] = "scales"
    """What trains after related sources have joined. scales: their scales. both: the target's own prompt as well, at
    the method's target_learning_rate."""
    scale_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the scales. Default: the method's target_learning_rate."""


@dataclass(frozen=True)
class FirstUpdates:
    """Result of the first updates of a target's prompt tuning.

    Attributes:
        test: `sign_test` of all sources.
        prompt: the target's prompt (L, H) after these updates; stage: result of the stage.
        batches: the rest of the target's budget.
    """

    test: Related
    prompt: Tensor
    stage: StageResult
    batches: Sequence[Sequence[int]]

    @property
    def related(self) -> list[int]:
        """Indices of the sources that pass the test."""
        return [place for place, z in enumerate(self.test["z"]) if z >= self.test["level"]]

    def close(self, level: float) -> bool:
        """Whether a source's z is at least this fraction of the maximum."""
        return max(self.test["z"]) >= level * math.sqrt(len(self.prompt))

    @property
    def note(self) -> str:
        """A note such as "related: amazon (z 3.9), tweets (z 3.9)"."""
        shown = [f"{self.test['names'][place]} (z {self.test['z'][place]:.1f})" for place in self.related]
        return f"related: {', '.join(shown)}" if shown else "no related source: prompt tuning"


def sign_test(own: Tensor, sources: Tensor, start: Tensor, level: float, names: list[str]) -> Related:
    """Test whether a target's prompt (L, H) is more similar to named sources (K, L, H) than by chance.

    Let p_i be the dot product of token i of both task vectors, and z = sum_i p_i / sqrt(sum_i p_i^2). If the tasks have
    nothing in common, the sign of every p_i is a coin flip, and z has mean 0 and variance 1. Related vectors agree in
    nearly every token, and z comes close to its maximum sqrt(L).

    Args:
        start: P_init (L, H) of all these prompts.
        level: smallest z of a related source, as a fraction of the maximum.
    """
    cosine, z = pk.task_similarity(own[None], start, sources, return_z=True)
    smallest = level * math.sqrt(own.shape[0])
    return {"names": names, "cosine": cosine[0].tolist(), "z": z[0].tolist(), "level": smallest}


def first_updates(ctx: Context, target: EncodedTask) -> FirstUpdates:
    """Run the first updates of the target's prompt and test all sources against it."""
    tuning, settings = ctx.of(target, "PT"), ctx.config.of(RelatedConfig)
    budget = target_budget(tuning.config, len(target.train))
    updates, _ = _split(tuning.config, budget, len(target.train))
    batches, prompt = ctx.target_batches(target), SoftPrompt(ctx.start)
    stage = tuning.tune("first updates", prompt, target, batches[:updates], horizon=len(batches))
    own, names = prompt.composed().cpu(), [source.name for source in ctx.sources]
    test = sign_test(own, torch.stack(source_prompts(ctx)), ctx.start, settings.level, names)
    return FirstUpdates(test, own, stage, batches[updates:])


def without_transfer(ctx: Context, target: EncodedTask, first: FirstUpdates) -> MethodResult:
    """Prompt tuning, for a target to which nothing is transferred."""
    result = PT().run(ctx.of(target, PT.name), target)
    result.source_updates = source_cost(ctx)
    result.notes = first.note
    result.history["related"] = first.test
    return result


def joined(
    ctx: Context,
    target: EncodedTask,
    first: FirstUpdates,
    prompts: Tensor,
    title: str,
    *,
    scaling: str = "per-token",
    scale_rate: float | None = None,
) -> tuple[MethodResult, float]:
    """Add the transferred prompts (K, L, H) to the target's after its first updates, and continue training.

    Args:
        title: title of the stage.
        scaling: kind of trained scales, see `JoinedPrompt`.
        scale_rate: peak learning rate of the scales; None: as in `RelatedConfig`.

    Returns:
        the target's result, and the weight with which the prompts joined.
    """
    tuning, related = ctx.of(target, "PT"), ctx.config.of(RelatedConfig)
    weight, spent = join_weight(ctx, target, first, prompts)
    prompt: PromptModule
    if weight:
        prompt = JoinedPrompt(ctx.start, first.prompt, prompts, weight, scaling=scaling)
        rate = ctx.config.target_rate if related.trained == "both" else 0.0
        if scale_rate is None:
            scale_rate = related.scale_learning_rate or ctx.config.target_rate
        groups, how = prompt.parameter_groups(rate, scale_rate), f"joined at {weight:g}"
    elif spent and first.close(related.close):
        prompt, rate = SoftPrompt(prompts.mean(dim=0)), tuning.config.target_rate
        groups, how = prompt.parameter_groups(rate), "trained on"
    else:
        result = without_transfer(ctx, target, first)
        result.notes += "; joined at 0"
        return result, weight
    done = first.stage.facts["updates"]
    stage = tuning.tune(
        title,
        prompt,
        target,
        first.batches[spent:],
        rate=rate,
        groups=groups,
        horizon=done + len(first.batches),
        offset=done,
    )
    result = MethodResult.of(
        prompt.composed(),
        first.stage,
        stage,
        source_updates=source_cost(ctx),  # updates of the prompts that the sign test compares with
        history={"related": first.test},
        notes=f"{first.note}; {how}",
        other_prompts={"own": prompt.prompt.detach().clone()} if isinstance(prompt, JoinedPrompt) else {},
    )
    result.target_updates += spent
    result.target_examples = first.stage.facts["examples"] + sum(map(len, first.batches))
    return result, weight


def join_weight(ctx: Context, target: EncodedTask, first: FirstUpdates, prompts: Tensor) -> tuple[float, int]:
    """Largest weight of the prompts (K, L, H) that does not raise the loss on the next two batches, and its cost.

    The weight with the lowest loss would favour the target's own prompt, which may have trained on these rows. The cost
    is in updates, 0 if too few batches are left for a search; an update takes as long as three forward passes.
    """
    weights, rows = ctx.config.of(RelatedConfig).join_weights, [row for batch in first.batches[:2] for row in batch]
    spent = math.ceil((1 + len(weights)) * 2 / 3)
    if spent >= len(first.batches):  # no batches would be left for training
        return 0.0, 0
    mean = prompts.mean(dim=0)
    tried = torch.stack([torch.lerp(first.prompt, mean, weight) for weight in (0.0, *weights)])
    some = replace(target, train=EncodedRows.of(target.train[row] for row in rows))
    own, *losses = training_losses(ctx, tried, some, "weights of the sources")
    return max((weight for weight, loss in zip(weights, losses, strict=True) if loss <= own), default=0.0), spent


def check_unused(config: RunConfig, settings: Settings, names: Iterable[str]) -> None:
    """Raise a ValueError if a setting that only applies to transfer from all sources differs from its default."""
    if config.transfer_from == "all":
        return
    changed = [name for name in names if getattr(settings, name) != type(settings).model_fields[name].default]
    if changed:
        listed = ", ".join(f"{settings.block}.{name}={getattr(settings, name)!r}" for name in changed)
        raise ValueError(f"{listed}: has no effect if transfer_from is 'related'; set transfer_from to 'all'")


def stages(scope: Scope, target: SizedTask, title: str, scales: int) -> Iterator[Stage]:
    """The first updates, and the stage that related source prompts join. `scales` is the largest number of scales."""
    config, budget = scope.config.for_task(target.name), scope.budget(target)
    first, rest = (None, None) if budget is None else _split(config, budget, target.train or 0)
    yield scope.tuning(target, "first updates", scope.prompt, updates=first, batch=config.batch_size)
    yield scope.tuning(target, title, scope.prompt + scales, updates=rest)


def _split(config: RunConfig, budget: TargetBudget, rows: int) -> tuple[int, int]:
    """Split a target's updates into the first ones and the rest."""
    related = config.of(RelatedConfig)
    first, _ = split_updates(budget.total, related.own_fraction)
    first = min(first, updates_of_epochs(related.own_epochs, rows, config.batch_size) or first)
    return first, budget.total - first
