"""MPT (Wang et al. 2023): decompose source prompts into a shared one and rank-R factors, distilled from teachers.

Stage 0: teachers, one prompt per source. Stage 1: joint source training with stochastic task sampling and distillation.
Stage 2: the target starts at the shared prompt and the average factors; two-speed rates.
"""

from __future__ import annotations

from torch import Tensor

from prompttransfer.methods.context import Context, EncodedTask, MethodResult, stack
from prompttransfer.methods.objectives import DistillationLoss, task_loss
from prompttransfer.methods.sampler import flatten, task_batches
from prompttransfer.methods.shared import source_prompts
from prompttransfer.prompts import FrozenPrompts, MultitaskPrompt, average_factors
from prompttransfer.store import tensor_hash
from prompttransfer.training import Row


def source_stage(ctx: Context, teachers: Tensor) -> tuple[MultitaskPrompt, dict]:
    """Stage 1 from teachers (T, L, H): the multi-task prompt of the sources and the stage's facts."""
    config, mpt = ctx.config, ctx.config.mpt
    rows, sizes = joined_rows(ctx.sources)
    batches = task_batches(
        sizes,
        config.source_batch_size,
        mpt.source_updates or config.source_updates,
        ctx.source_seed,
        mixing=mpt.mixing,
        replacement=mpt.replacement,
    )
    prompt = MultitaskPrompt(ctx.start, len(sizes), mpt.rank)
    settings = {
        "weight": mpt.distillation,
        "temperature": mpt.temperature,
        "logits": mpt.logits,
        "hidden": mpt.hidden,
        "hidden_positions": mpt.hidden_positions,
    }
    loss = DistillationLoss(FrozenPrompts(teachers).to(ctx.backbone.device), **settings)
    plan = ctx.plan(prompt, loss, rows, flatten(batches, sizes), mpt.shared_learning_rate or config.learning_rate)
    result = ctx.run(
        "MPT: joint source stage", plan, {"loss": "distillation", "teachers": tensor_hash(teachers)} | settings
    )
    return prompt, result.facts


def joined_rows(sources: list[EncodedTask]) -> tuple[list[Row], list[int]]:
    """Training rows of all sources with their task ids, and their numbers."""
    rows = [Row(row.ids, row.answer, task) for task, source in enumerate(sources) for row in source.train]
    return rows, [len(source.train) for source in sources]


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    config, mpt = ctx.config, ctx.config.mpt
    teachers = stack(source_prompts(ctx))
    joint, source_facts = source_stage(ctx, teachers)
    u, v = average_factors(joint.u.detach(), joint.v.detach())
    prompt = MultitaskPrompt(joint.shared, 1, mpt.rank, u=u, v=v)
    shared_rate = mpt.shared_learning_rate or config.target_rate
    groups = prompt.parameter_groups(shared_rate, mpt.factor_learning_rate or shared_rate * 4 / 3)
    plan = ctx.plan(prompt, task_loss, target.train, ctx.target_batches(target), shared_rate, groups=groups)
    facts = ctx.run(f"{target.name}: MPT", plan).facts
    return MethodResult(
        prompt=prompt.composed().cpu(),
        other_prompts={"shared": joint.shared.detach()},
        trainable_parameters=facts["trainable_parameters"],
        target_updates=facts["updates"],
        target_examples=facts["examples"],
        source_updates=len(teachers) * config.source_updates + source_facts["updates"],
        seconds=facts["seconds"],
        history={"loss": facts["loss"], "source_loss": source_facts["loss"]},
    )
