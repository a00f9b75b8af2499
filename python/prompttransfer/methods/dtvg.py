"""DTVG (2025): merge the target's task vector with those of a group of sources, chosen anew at every forward.

Stage 1: prompts of all sources and of the target, from one P_init. Stage 2: per-token scales of all vectors and the
target's prompt train on the merged prompt; the source vectors stay frozen. The final prompt is the merged one.

The published code chooses among the prefixes of a ranking by their consistency alone; the paper's objective adds the
similarity to the target. Both, the exact search, and the code's ablations are settings of `DTVGConfig`.
"""

from __future__ import annotations

import torch

from prompttransfer.budget import target_budget
from prompttransfer.methods.context import Context, EncodedTask, MethodResult, stack
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.related import first_updates, joined, without_transfer
from prompttransfer.methods.shared import (
    joined_loss,
    own_prompt,
    own_share,
    similarity_history,
    source_cost,
    source_prompts,
)
from prompttransfer.methods.spot import from_nearest
from prompttransfer.prompts import GroupedPrompt, group_rule


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    config, dtvg = ctx.config, ctx.config.dtvg
    if dtvg.grouping == "related":
        return _with_related(ctx, target)
    sources = stack(source_prompts(ctx))
    updates = target_budget(config, len(target.train)).own or own_share(ctx, target, dtvg.own_fraction)
    own, first, batches = own_prompt(ctx, target, updates, dtvg.own_learning_rate)
    if dtvg.grouping == "spot":
        return from_nearest(ctx, target, (own, first, batches), f"{target.name}: DTVG spot")
    rule = {"consistency_weight": dtvg.consistency_weight, "positive_only": dtvg.positive_only}
    settings = {name: getattr(dtvg, name) for name in ("grouping", "metric", "scaling", "scale_start")}
    prompt = GroupedPrompt(ctx.start, sources, own, rule=group_rule(dtvg.rule, **rule), **settings)
    groups = prompt.parameter_groups(
        config.target_rate, dtvg.target_scale_learning_rate, dtvg.source_scale_learning_rate
    )
    decay = {} if dtvg.weight_decay is None else {"weight_decay": dtvg.weight_decay}
    plan = ctx.plan(prompt, task_loss, target.train, batches, config.target_rate, [target], groups=groups, **decay)
    key = {"rule": dtvg.rule} | rule | settings
    if dtvg.rule == "consistent-subset":
        key["no agreeing pair"] = "no source"  # stages of version 0.1 merged some then
    second = ctx.run(f"{target.name}: DTVG", plan, key)
    names = [*(source.name for source in ctx.sources), target.name]
    offset = first.facts["updates"]
    log = [
        [offset + update, [name for name, chosen in zip(names[:-1], row[:-1], strict=True) if chosen]]
        for update, row in enumerate(prompt.history()["groups"], 1)
    ]
    final = [name for name, chosen in zip(names[:-1], prompt.group()[:-1].tolist(), strict=True) if chosen]
    return MethodResult(
        prompt=prompt.composed().cpu(),
        other_prompts={"own": own},
        trainable_parameters=second.facts["trainable_parameters"],
        target_updates=offset + second.facts["updates"],
        target_examples=first.facts["examples"] + second.facts["examples"],
        source_updates=source_cost(ctx),
        seconds=first.facts["seconds"] + second.facts["seconds"],
        history={
            "loss": joined_loss(first, second),
            "groups": log,
            "similarity": similarity_history(names, torch.cat([sources, own[None]]), ctx.start),
        },
        notes=f"merged: {', '.join(final) or 'no source'}",
    )


def _with_related(ctx: Context, target: EncodedTask) -> MethodResult:
    """Prompt tuning that the vectors of related sources join, at the method's rates."""
    first = first_updates(ctx, target)
    if not first.test.related:
        return without_transfer(ctx, target, first)
    dtvg, related = ctx.config.dtvg, first.test.related
    result = joined(
        ctx,
        target,
        first,
        stack(source_prompts(ctx))[related],
        f"{target.name}: DTVG with related sources",
        scaling=dtvg.scaling,
        scale_rate=dtvg.source_scale_learning_rate,
    )
    merged = [first.names[place] for place in related]
    updates = [update for update, _ in result.history["loss"] if update > first.facts["updates"]]
    result.history["groups"] = [[update, merged] for update in updates]
    return result
