"""Multi-task prompt tuning: one prompt on a mixture of all sources, then on the target.

The simplest way to share: no decomposition, no teachers, no source selection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from prompttransfer.methods.base import Method, Scope, Stage
from prompttransfer.methods.budget import joint_updates
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.sampler import Mixing, flatten, mixed_batches
from prompttransfer.methods.shared import joined_rows
from prompttransfer.prompts import SoftPrompt
from prompttransfer.settings.base import Settings
from prompttransfer.settings.run import RunConfig


class MultiPTConfig(Settings):
    """Multi-task prompt tuning: one prompt on a mixture of the sources, then on the target."""

    block: ClassVar[str] = "multi_pt"

    source_updates: int | None = Field(None, ge=1)
    """Number of updates on the mixture of the sources. Default: source_updates of the run."""
    source_epochs: float | None = Field(None, gt=0)
    """Epochs over the mixture of the sources. Replaces source_updates."""
    mixing: Mixing = "t5"
    """Share of each source in the mixture."""


class MultiPT(Method):
    """Prompt tuning on a mixture of the sources, then on the target."""

    name = "Multi-PT"
    settings = (MultiPTConfig,)

    def source_prompts(self, config: RunConfig) -> bool:
        return False

    def source_stages(self, scope: Scope) -> Iterator[Stage]:
        yield scope.joint("Multi-PT: mixture", scope.config.of(MultiPTConfig), scope.prompt)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        config, settings = ctx.config, ctx.config.of(MultiPTConfig)
        rows, sizes = joined_rows(ctx.sources)
        updates = joint_updates(config, settings, len(rows))
        batches = mixed_batches(sizes, config.source_batch_size, updates, ctx.source_seed, mixing=settings.mixing)
        joint = SoftPrompt(ctx.start)
        plan = ctx.plan(joint, task_loss, rows, flatten(batches, sizes), config.learning_rate)
        source = ctx.run("Multi-PT: mixture of the sources", plan, seed=ctx.source_seed).facts
        prompt = SoftPrompt(joint.composed())
        stage = ctx.tune(self.name, prompt, target)
        return MethodResult.of(
            prompt.composed(),
            stage,
            other_prompts={"shared": joint.composed()},
            source_updates=source["updates"],
            history={"source_loss": source["loss"]},
        )
