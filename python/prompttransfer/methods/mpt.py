"""MPT (Wang et al. 2023): decompose source prompts into a shared one and rank-R factors, distilled from teachers.

Stage 0: teachers, one prompt per source. Stage 1: joint source training with stochastic task sampling and distillation.
Stage 2: one target, or a group of them that share P*, starts at the shared prompt and the average factors; two-speed
rates. The finished prompts are plain matrices P* o (u_t v_t).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from torch import Tensor

from prompttransfer.budget import joint_updates
from prompttransfer.interchange import Factors
from prompttransfer.methods.context import Context, EncodedTask, MethodResult, stack
from prompttransfer.methods.distillation import DistillationLoss, PromptDistance, TeacherForward
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.related import first_updates, joined, without_transfer
from prompttransfer.methods.sampler import flatten, mixed_batches, task_batches
from prompttransfer.methods.shared import joined_rows, source_cost, source_prompts
from prompttransfer.methods.teachers import KeptTeacher
from prompttransfer.prompts import (
    FrozenPrompts,
    MultitaskPrompt,
    PromptModule,
    SoftPrompt,
    average_factors,
    mean_factors,
)
from prompttransfer.rows import Row
from prompttransfer.store import Result, tensor_hash
from prompttransfer.training import Objective

JointPrompt = MultitaskPrompt | SoftPrompt


def source_stage(ctx: Context) -> tuple[JointPrompt, Result, int]:
    """Stages 0 and 1: the prompt of all sources, the joint stage's facts, and the source updates of both stages."""
    config, mpt = ctx.config, ctx.config.mpt
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
        teachers = stack(source_prompts(ctx))
        loss, settings = _distillation(ctx, teachers, rows, sum(map(len, batches)))
        updates += source_cost(ctx)
    plan = ctx.plan(prompt, loss, rows, batches, mpt.shared_learning_rate or config.learning_rate)
    return prompt, ctx.run("MPT: joint source stage", plan, settings), updates


def _distillation(ctx: Context, teachers: Tensor, rows: Sequence[Row], uses: int) -> tuple[Objective, dict[str, Any]]:
    """The loss that the settings name, and what it depends on."""
    mpt = ctx.config.mpt
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
    """The start of stage 2 for so many targets, and its parameter groups with their rates.

    Args:
        sources: places of those whose factors are averaged; None: all.
    """
    mpt = ctx.config.mpt
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


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    """One target alone."""
    if ctx.config.mpt.transfer_from == "all":
        return _adapt(ctx, target, [target], f"{target.name}: MPT")
    first = first_updates(ctx, target)
    if not first.test.related:
        return without_transfer(ctx, target, first)
    joint, source, source_updates = source_stage(ctx)
    prompt, _ = target_prompt(ctx, joint, 1, first.test.related)
    result = joined(ctx, target, first, prompt.composed()[None], f"{target.name}: MPT from related sources")
    result.other_prompts |= _shared(joint)
    result.history["source_loss"] = source.facts["loss"]
    # The test's prompts are the teachers.
    result.source_updates = source_updates if ctx.config.mpt.teaches else source_updates + result.source_updates
    return result


def run_group(ctx: Context, target: EncodedTask) -> MethodResult:
    """All targets of the run together (MPT*): they share P*, each has its own factors.

    An update reads the batches that every target would read alone, so each spends the same budget as by itself.
    """
    group = ctx.targets or [target]
    return _adapt(ctx, target, group, f"{', '.join(task.name for task in group)}: MPT-group")


def _adapt(ctx: Context, target: EncodedTask, group: list[EncodedTask], title: str) -> MethodResult:
    """Adapt a group of targets together and return the result of one of them."""
    joint, source, source_updates = source_stage(ctx)
    prompt, parameters = target_prompt(ctx, joint, len(group))
    rows, sizes = joined_rows(group)
    # A target whose budget is spent has no rows in the updates that are left to others.
    alone = [ctx.target_batches(task) for task in group]
    updates = zip_longest(*alone, fillvalue=[])
    batches = flatten([[(task, row) for task, own in enumerate(update) for row in own] for update in updates], sizes)
    facts = ctx.run(
        title, ctx.plan(prompt, task_loss, rows, batches, parameters[0]["lr"], group, groups=parameters)
    ).facts
    index = next(place for place, task in enumerate(group) if task.name == target.name)
    return MethodResult(
        prompt=prompt.composed(index).cpu(),
        factors=_factors(prompt, index),
        other_prompts=_shared(joint),
        trainable_parameters=facts["trainable_parameters"] // len(group),
        target_updates=len(alone[index]),
        target_examples=sum(map(len, alone[index])),
        source_updates=source_updates,
        seconds=facts["seconds"] / len(group),
        history={"loss": facts["loss"], "source_loss": source.facts["loss"]},
        notes="" if len(group) == 1 else f"with {', '.join(task.name for task in group if task.name != target.name)}",
    )


def _shared(joint: JointPrompt) -> dict[str, Tensor]:
    """P* of all sources."""
    return {"shared": joint.composed() if isinstance(joint, SoftPrompt) else joint.shared.detach()}


def _factors(prompt: PromptModule, task: int) -> Factors | None:
    """Those of one task; none of a prompt without decomposition."""
    if not isinstance(prompt, MultitaskPrompt):
        return None
    return Factors(prompt.shared.detach(), prompt.u[task].detach(), prompt.v[task].detach())
