"""SPoT (Vu et al. 2022): start from the source prompt most similar to the target's own, or from a mean of several.

Task embedding: the prompt averaged over its tokens. Similarity: cosine. The target's own prompt takes a share of the
target budget; the transfer stage takes the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

import promptkernels as pk
from prompttransfer.files.store import StageResult
from prompttransfer.methods.base import Method, Scope, SizedTask, Stage, check_fraction
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.shared import after_own, own_prompt, own_share, source_prompts
from prompttransfer.prompts import SoftPrompt
from prompttransfer.settings.base import Settings
from prompttransfer.settings.run import RunConfig


class SPoTConfig(Settings):
    """SPoT (Vu et al. 2022): start from the most similar source prompt, or from a mean of several."""

    block: ClassVar[str] = "spot"

    own_fraction: float = Field(0.5, gt=0, lt=1)
    """Fraction of target_updates that trains the target's own prompt, which chooses the source."""
    top: int = Field(1, ge=1)
    """Number of most similar source prompts to start from. Their mean is weighted by cosine."""


def from_nearest(
    ctx: Context, target: EncodedTask, own: tuple[Tensor, StageResult, list[list[int]]], title: str, top: int = 1
) -> MethodResult:
    """Prompt tuning on the remaining batches, from the source prompts nearest to the target's own.

    `own` is the return value of `own_prompt`.
    """
    sources = torch.stack(source_prompts(ctx))
    prompt_of_target, first, batches = own
    similarity = pk.task_similarity(prompt_of_target[None], others=sources, metric="token_mean_cosine")[0]
    weights = nearest_weights(similarity, top)
    chosen = similarity.argsort(descending=True, stable=True)[: int((weights > 0).sum())].tolist()
    start = sources[chosen[0]] if len(chosen) == 1 else torch.einsum("k,klh->lh", weights, sources)
    prompt = SoftPrompt(start)
    second = ctx.tune(title, prompt, target, batches)
    notes = "from " + ", ".join(f"{ctx.sources[index].name} (cosine {similarity[index]:.3f})" for index in chosen)
    return after_own(ctx, target, sources, prompt_of_target, prompt.composed(), (first, second), notes)


def nearest_weights(similarity: Tensor, top: int) -> Tensor:
    """Weights (K,) that sum to 1: proportional to the `top` largest of K cosines, 0 for the others.

    A negative cosine counts as 0. If no cosine is positive, the nearest source gets weight 1.
    """
    largest = similarity.argsort(descending=True, stable=True)[:top]
    weights = torch.zeros_like(similarity)
    weights[largest] = similarity[largest].clamp(min=0)
    if not weights.any():
        weights[largest[0]] = 1.0
    return weights / weights.sum()


class SPoT(Method):
    """Prompt tuning from the most similar source prompts."""

    name = "SPoT"
    settings = (SPoTConfig,)

    def check(self, config: RunConfig) -> None:
        check_fraction(config, self.name, "spot.own_fraction", config.of(SPoTConfig).own_fraction)

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        first, second = scope.parts(target, scope.config.of(SPoTConfig).own_fraction)
        yield scope.tuning(target, "own prompt", scope.prompt, updates=first)
        yield scope.tuning(
            target, self.name, scope.prompt, updates=second, batch=scope.config.for_task(target.name).batch_size
        )

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        spot = ctx.config.of(SPoTConfig)
        own = own_prompt(ctx, target, own_share(ctx, target, spot.own_fraction))
        return from_nearest(ctx, target, own, self.name, spot.top)
