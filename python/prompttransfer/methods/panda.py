"""PANDA (Zhong et al. 2022): the most similar source prompt teaches on the target, weighted by the similarity.

The target's own prompt takes a share of the target budget and determines which source is most similar. The taught
stage takes the rest. docs/methods/panda.md says what comes from the authors and what is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

import promptkernels as pk
from prompttransfer.files.store import tensor_hash
from prompttransfer.methods.base import Method, Scope, SizedTask, Stage, check_fraction
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.distillation import DistillationLoss, TeacherForward
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.shared import after_own, own_prompt, own_share, source_prompts
from prompttransfer.prompts import FrozenPrompts, SoftPrompt
from prompttransfer.settings.base import Settings
from prompttransfer.settings.run import RunConfig
from prompttransfer.training.plan import Objective


class PANDAConfig(Settings):
    """PANDA (Zhong et al. 2022): the most similar source prompt teaches on the target, weighted by the similarity."""

    block: ClassVar[str] = "panda"

    own_fraction: float = Field(0.5, gt=0, lt=1)
    """Fraction of target_updates that trains the target's own prompt, which is compared with the sources."""
    start: Literal["p_init", "source"] = "p_init"
    """Start of the taught prompt: P_init, or the source prompt that teaches it."""
    distillation: float = Field(1.0, ge=0)
    """Weight of the distillation at similarity 1; it is multiplied by the similarity."""
    temperature: float = Field(1.0, gt=0)
    """Temperature of both distributions."""


class PANDA(Method):
    """Prompt tuning with distillation from the most similar source prompt."""

    name = "PANDA"
    settings = (PANDAConfig,)

    def check(self, config: RunConfig) -> None:
        check_fraction(config, self.name, "panda.own_fraction", config.of(PANDAConfig).own_fraction)

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        panda, batch = scope.config.of(PANDAConfig), scope.config.for_task(target.name).batch_size
        first, second = scope.parts(target, panda.own_fraction)
        yield scope.tuning(target, "own prompt", scope.prompt, updates=first)
        yield scope.tuning(target, self.name, scope.prompt, updates=second, batch=batch, taught=panda.distillation > 0)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        panda = ctx.config.of(PANDAConfig)
        sources = torch.stack(source_prompts(ctx))
        own, first, batches = own_prompt(ctx, target, own_share(ctx, target, panda.own_fraction))
        similarity = pk.task_similarity(own[None], ctx.start, others=sources)[0]
        nearest = int(similarity.argmax())
        weight = panda.distillation * max(0.0, similarity[nearest].item())
        prompt = SoftPrompt(ctx.start if panda.start == "p_init" else sources[nearest])
        loss: Objective = task_loss
        key: dict[str, Any] = {}
        if weight:  # a weight of 0 needs no teacher
            teacher = FrozenPrompts(sources[nearest][None]).to(ctx.backbone.device)
            settings = {"weight": weight, "temperature": panda.temperature, "hidden": "none"}
            loss = DistillationLoss(TeacherForward(teacher, hidden="none"), **settings)
            key = {"loss": "distillation", "teachers": tensor_hash(teacher.prompts)} | settings
        second = ctx.tune(self.name, prompt, target, batches, objective=loss, settings=key)
        notes = f"taught by {ctx.sources[nearest].name} (cosine {similarity[nearest]:.3f}, weight {weight:.3f})"
        return after_own(ctx, target, sources, own, prompt.composed(), (first, second), notes)
