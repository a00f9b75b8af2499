"""Task prompt vectors (Belanec et al. 2024): start from P_init + scale * sum of (P_source - P_init) over some sources.

The published code adds the vectors of every pair of tasks; how to choose a pair for a new target is open. Here each sum
is scored by its loss on the target's training rows. The best one is trained with the target's budget, or is the result
if `tune` is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

import promptkernels as pk
from prompttransfer.methods.base import Method, Scope, SizedTask, Stage
from prompttransfer.methods.choosing import training_losses
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.shared import similarity_history, source_cost, source_prompts
from prompttransfer.prompts import SoftPrompt
from prompttransfer.settings.base import Settings


class TPVConfig(Settings):
    """Task prompt vectors (Belanec et al. 2024): start from P_init + scale * sum of task vectors of sources."""

    block: ClassVar[str] = "tpv"

    combine: Literal["pair", "top", "all"] = "pair"
    """Sources whose task vectors are added. pair: the pair with the lowest loss on the target's training rows before
    any update; the published code adds pairs. top: the best single sources by the same measure. all: every source."""
    top: int = Field(2, ge=1)
    """Number of sources if combine is 'top'."""
    scale: float = 1.0
    """Factor of the sum."""
    tune: bool = True
    """Train on the target after adding. If false, the sum itself is the result."""


def added_sources(ctx: Context, target: EncodedTask, sources: Tensor) -> tuple[int, ...]:
    """Indices of the sources (K, L, H) to add, according to `tpv.combine`."""
    tpv, every = ctx.config.of(TPVConfig), range(len(sources))
    size = {"pair": 2, "top": 1, "all": len(sources)}[tpv.combine]
    groups = list(combinations(every, min(size, len(sources))))
    if len(groups) == 1:
        return groups[0]
    sums = torch.stack([vector_sum(ctx, sources, group) for group in groups])
    losses = training_losses(ctx, sums, target, "sums of task vectors")
    ranked = sorted(range(len(groups)), key=losses.__getitem__)
    if tpv.combine == "pair":
        return groups[ranked[0]]
    return tuple(sorted(ranked[: tpv.top]))


def vector_sum(ctx: Context, sources: Tensor, group: tuple[int, ...]) -> Tensor:
    """P_init + scale * the sum of a group of task vectors, (L, H)."""
    weights = torch.zeros(len(sources))
    weights[list(group)] = ctx.config.of(TPVConfig).scale
    return pk.merge_task_vectors(ctx.start, sources, weights=weights)


class TPV(Method):
    """Prompt tuning from a sum of task vectors."""

    name = "TPV"
    settings = (TPVConfig,)

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        if scope.config.of(TPVConfig).tune:
            yield scope.tuning(target, self.name, scope.prompt)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        tpv = ctx.config.of(TPVConfig)
        sources = torch.stack(source_prompts(ctx))
        names = [source.name for source in ctx.sources]
        added = added_sources(ctx, target, sources)
        start = vector_sum(ctx, sources, added)
        prompt = SoftPrompt(start)
        stages = [ctx.tune(self.name, prompt, target)] if tpv.tune else []
        return MethodResult.of(
            prompt.composed(),
            *stages,
            other_prompts={"sum": start},
            source_updates=source_cost(ctx),
            history={"similarity": similarity_history(names, sources, ctx.start)},
            notes=f"from {' + '.join(names[index] for index in added)}{'' if tpv.tune else '; not trained'}",
        )
