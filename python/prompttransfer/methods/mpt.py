"""MPT (Wang et al. 2023): decompose source prompts into a shared one and rank-R factors, distilled from teachers.

Stage 0: teachers, one prompt per source. Stage 1: joint source training with stochastic task sampling and distillation.
Stage 2: one target, or a group that shares P*, starts from the shared prompt and the average factors, at two learning
rates. The finished prompts are plain matrices P* o (u_t v_t).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from prompttransfer.files.store import StageResult, tensor_hash
from prompttransfer.interchange import Factors
from prompttransfer.methods import related
from prompttransfer.methods.base import Method, Scope, SizedTask, Stage, check_one_rate
from prompttransfer.methods.budget import joint_updates
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.distillation import DistillationLoss, PromptDistance, TeacherForward
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.sampler import Mixing, flatten, mixed_batches, task_batches
from prompttransfer.methods.shared import joined_rows, source_cost, source_prompts, train_together
from prompttransfer.methods.teachers import KeptTeacher
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import (
    FrozenPrompts,
    MultitaskPrompt,
    PromptModule,
    SoftPrompt,
    average_factors,
    mean_factors,
)
from prompttransfer.settings.base import Presets
from prompttransfer.settings.run import RunConfig
from prompttransfer.training.plan import Objective


class MPTConfig(Presets):
    """MPT (Wang et al. 2023): teachers, decomposition, distillation, stochastic task sampling."""

    block: ClassVar[str] = "mpt"

    # The published code where the paper is silent or differs: PEFT's parametrisation.
    variants: ClassVar[dict[str, dict[str, Any]]] = {"code": {"average": "means", "factor_start": "normal"}}
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "no-distillation": {"distillation": 0.0},
        "no-decomposition": {"decomposition": False},
        "neither": {"decomposition": False, "distillation": 0.0},
        "no-hidden": {"hidden": "none"},
        "prompt-mse": {"distilled": "prompts"},
        "no-sampling": {"sampling": "rows"},
        "shared-only": {"trained": "shared"},
        "frozen-vectors": {"trained": "frozen-vectors"},
        "vectors-only": {"trained": "factors"},
    }

    variant: Literal["paper", "code"] = "paper"
    """Version to follow where paper and published code differ. code sets average to 'means' and factor_start to
    'normal', unless they are given."""
    ablation: Literal[
        "none",
        "no-distillation",
        "no-decomposition",
        "neither",
        "no-hidden",
        "prompt-mse",
        "no-sampling",
        "shared-only",
        "frozen-vectors",
        "vectors-only",
    ] = "none"
    """An ablation of the paper (table 6 and section 4.3). neither: no decomposition and no distillation. frozen-vectors
    is ours."""
    rank: int = Field(1, ge=1)
    """Rank R of the task factors u (L, R) and v (R, H)."""
    decomposition: bool = True
    """Decompose source prompts as P_k = P* o (u_k v_k). If false, all sources share one prompt."""
    factor_start: Literal["ones", "normal"] = "ones"
    """Start of u and v. ones: P_k starts at P*. normal: N(0, 0.02^2), which nearly erases P_init."""
    source_updates: int | None = Field(None, ge=1)
    """Number of updates of the joint source stage. Default: source_updates of the run."""
    source_epochs: float | None = Field(None, gt=0)
    """Epochs of the joint source stage over the mixed sources. Replaces source_updates."""
    distillation: float = Field(0.9, ge=0)
    """lambda: weight of the two distillation losses (eq. 5)."""
    distilled: Literal["outputs", "prompts"] = "outputs"
    """What is distilled. outputs: the teachers' outputs. prompts: the teacher prompts, by mean squared distance."""
    logits: bool = True
    """Distil the teacher's output distribution (eq. 3)."""
    hidden: Literal["none", "last", "all"] = "last"
    """Hidden layers to distil (eq. 4)."""
    hidden_positions: Literal["text", "all"] = "text"
    """Positions at which hidden layers are distilled: the text, or the prompt as well."""
    temperature: float = Field(1.0, gt=0)
    """Temperature T of both distributions in eq. 3."""
    temperature_squared: bool = False
    """Multiply eq. 3 by T^2, so that the size of its gradient does not depend on T."""
    teacher_cache: Literal["auto", "always", "never"] = "auto"
    """Keep the teachers' outputs on disk. auto: only where a measurement shows that it is faster."""
    teacher_cache_gb: float = Field(2.0, gt=0)
    """Largest file of teacher outputs that auto writes, in GB."""
    sampling: Literal["stochastic", "rows"] = "stochastic"
    """How the tasks of a batch are drawn. stochastic: first K ~ U{2..T} tasks, then rows of these. rows: the task of
    each row is drawn on its own."""
    replacement: bool = True
    """Draw the tasks of a batch with replacement."""
    mixing: Mixing = "t5"
    """Probabilities with which tasks are drawn."""
    average: Literal["fit", "means"] = "fit"
    """Start of the target's factors. fit: rank-R fit of the mean of u_k v_k. means: mean of u and mean of v."""
    trained: Literal["both", "shared", "factors", "frozen-vectors"] = "both"
    """What trains on the target. both: `P*`, u and v. shared: `P*` without u and v. factors: u and v. frozen-vectors:
    `P*`, with u and v as they start."""
    shared_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the joint source stage and, on the target, of the shared prompt. Default: learning_rate and
    target_learning_rate."""
    factor_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of u and v on the target. Default: 4/3 of that of the shared prompt (0.4 : 0.3 in the paper)."""

    @property
    def teaches(self) -> bool:
        """Whether the source stage needs teachers."""
        outputs = self.logits or self.hidden != "none"
        return self.distillation > 0 and (self.distilled == "prompts" or outputs)


JointPrompt = MultitaskPrompt | SoftPrompt


def source_stage(ctx: Context) -> tuple[JointPrompt, StageResult, int]:
    """Run stages 0 and 1; return the prompt of all sources, the joint stage's result and the updates of both stages."""
    config, mpt = ctx.config, ctx.config.of(MPTConfig)
    rows, sizes = joined_rows(ctx.sources)
    updates = joint_updates(config, mpt, len(rows))
    drawn = (sizes, config.source_batch_size, updates, ctx.source_seed)
    if mpt.sampling == "rows":
        batches = flatten(mixed_batches(*drawn, mixing=mpt.mixing), sizes)
    else:
        batches = flatten(task_batches(*drawn, mixing=mpt.mixing, replacement=mpt.replacement), sizes)
    if mpt.decomposition:
        prompt: JointPrompt = MultitaskPrompt(ctx.start, len(sizes), mpt.rank, start=mpt.factor_start)
    else:
        prompt = SoftPrompt(ctx.start)
    loss: Objective = task_loss
    settings: dict[str, Any] = {}
    if mpt.teaches:
        teachers = torch.stack(source_prompts(ctx))
        loss, settings = _distillation(ctx, teachers, rows, sum(map(len, batches)))
        updates += source_cost(ctx)
    plan = ctx.plan(prompt, loss, rows, batches, mpt.shared_learning_rate or config.learning_rate)
    return prompt, ctx.run("MPT: joint source stage", plan, settings, seed=ctx.source_seed), updates


def _distillation(
    ctx: Context, teachers: Tensor, rows: Sequence[EncodedRow], uses: int
) -> tuple[Objective, dict[str, Any]]:
    """The loss that the settings ask for, and the settings it depends on."""
    mpt = ctx.config.of(MPTConfig)
    prompts = FrozenPrompts(teachers).to(ctx.backbone.device)
    key = {"loss": "distillation", "teachers": tensor_hash(teachers), "weight": mpt.distillation}
    if mpt.distilled == "prompts":
        return PromptDistance(prompts, mpt.distillation), key | {"loss": "prompt distance"}
    forward = TeacherForward(prompts, mpt.hidden, mpt.hidden_positions)
    teacher = KeptTeacher(ctx, forward, rows, uses, mpt.teacher_cache, mpt.teacher_cache_gb)
    settings = {
        "weight": mpt.distillation,
        "temperature": mpt.temperature,
        "logits": mpt.logits,
        "hidden": mpt.hidden,
        "hidden_positions": mpt.hidden_positions,
    }
    if mpt.temperature_squared:
        settings["temperature_squared"] = True
    return DistillationLoss(teacher, **settings), key | settings


def target_prompt(
    ctx: Context, joint: JointPrompt, targets: int, sources: Sequence[int] | None = None
) -> tuple[PromptModule, list[dict[str, Any]]]:
    """Start of stage 2 for this many targets, and its parameter groups with their rates.

    Args:
        sources: indices of the sources whose factors are averaged; None: all.
    """
    mpt = ctx.config.of(MPTConfig)
    rate = mpt.shared_learning_rate or ctx.config.target_rate
    if isinstance(joint, SoftPrompt) or mpt.trained == "shared":
        prompt = SoftPrompt(joint.prompt if isinstance(joint, SoftPrompt) else joint.shared)
        return prompt, prompt.parameter_groups(rate)
    average = average_factors if mpt.average == "fit" else mean_factors
    which = slice(None) if sources is None else list(sources)
    u, v = (factor.expand(targets, -1, -1) for factor in average(joint.u.detach()[which], joint.v.detach()[which]))
    prompt = MultitaskPrompt(joint.shared, u=u, v=v)
    prompt.train_only("shared" if mpt.trained == "frozen-vectors" else mpt.trained)
    return prompt, prompt.parameter_groups(rate, mpt.factor_learning_rate or rate * 4 / 3)


def _adapt(ctx: Context, target: EncodedTask, group: list[EncodedTask], title: str) -> MethodResult:
    """Adapt a group of targets together and return the result of one of them."""
    joint, source, source_updates = source_stage(ctx)
    prompt, parameters = target_prompt(ctx, joint, len(group))
    place = [task.name for task in group].index(target.name)
    result = train_together(ctx, group, place, prompt, parameters, title, source_updates)
    result.factors, result.other_prompts = _factors(prompt, place), _shared(joint)
    result.history["source_loss"] = source.facts["loss"]
    return result


def _shared(joint: JointPrompt) -> dict[str, Tensor]:
    """P* of all sources."""
    return {"shared": joint.composed() if isinstance(joint, SoftPrompt) else joint.shared.detach()}


def _factors(prompt: PromptModule, task: int) -> Factors | None:
    """Factors of one task; None if the prompt is not decomposed."""
    if not isinstance(prompt, MultitaskPrompt):
        return None
    return Factors(prompt.shared.detach(), prompt.u[task].detach(), prompt.v[task].detach())


class MPT(Method):
    """Multitask prompt tuning of one target."""

    name = "MPT"
    settings = (MPTConfig, related.RelatedConfig)

    def check(self, config: RunConfig) -> None:
        related.check_unused(config, config.of(MPTConfig), ("trained", "factor_learning_rate"))

    def disk(self, config: RunConfig) -> int:
        mpt = config.of(MPTConfig)
        return int(mpt.teacher_cache_gb * 2**30) if mpt.teaches and mpt.teacher_cache != "never" else 0

    def source_stages(self, scope: Scope) -> Iterator[Stage]:
        mpt, known = scope.config.of(MPTConfig), len(scope.sources)
        taught = mpt.teaches and mpt.distilled == "outputs"
        trained = scope.prompt + (known * _factor_numbers(scope) if mpt.decomposition else 0)
        yield scope.joint("MPT: joint sources", mpt, trained, prompts=known, taught=taught)

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        if scope.config.transfer_from == "related":
            yield from related.stages(scope, target, self.name, scope.length)
        else:
            yield scope.tuning(target, self.name, _target_numbers(scope, 1))

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        """One target alone."""
        if ctx.config.transfer_from == "all":
            return _adapt(ctx, target, [target], self.name)
        first = related.first_updates(ctx, target)
        if not first.related:
            return related.without_transfer(ctx, target, first)
        joint, source, source_updates = source_stage(ctx)
        prompt, _ = target_prompt(ctx, joint, 1, first.related)
        result, _ = related.joined(ctx, target, first, prompt.composed()[None], "MPT from related sources")
        result.other_prompts |= _shared(joint)
        result.history["source_loss"] = source.facts["loss"]
        # The source prompts of the sign test are also the teachers.
        result.source_updates = (
            source_updates if ctx.config.of(MPTConfig).teaches else source_updates + result.source_updates
        )
        return result


class MPTGroup(MPT):
    """Multitask prompt tuning of all targets together."""

    name = "MPT-group"

    def check(self, config: RunConfig) -> None:
        check_one_rate(config, self.name)

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        yield scope.together(self.name, _target_numbers(scope, len(scope.targets)))

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        """All targets of the run together (MPT*): they share P*, each has its own factors."""
        return _adapt(ctx, target, ctx.targets or [target], self.name)


def _factor_numbers(scope: Scope) -> int:
    """Number of values in a task's u and v, R (L + H)."""
    return scope.config.of(MPTConfig).rank * (scope.length + scope.hidden)


def _target_numbers(scope: Scope, targets: int) -> int:
    """Number of trainable parameters on this many targets together."""
    mpt, factors = scope.config.of(MPTConfig), targets * _factor_numbers(scope)
    if not mpt.decomposition:
        return scope.prompt
    return {"both": scope.prompt + factors, "factors": factors}.get(mpt.trained, scope.prompt)
