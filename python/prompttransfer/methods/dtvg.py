"""DTVG (2025): merge the target's task vector with those of a group of sources, chosen anew at every forward.

Stage 1: prompts of all sources and of the target, from one P_init. Stage 2: per-token scales of all vectors and the
target's prompt train on the merged prompt; the source vectors stay frozen. The final prompt is the merged one.

The published code chooses among the prefixes of a ranking by their consistency alone; the paper's objective adds the
similarity to the target. Both, the exact search, and the code's ablations are settings of `DTVGConfig`.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from prompttransfer.budget import target_budget
from prompttransfer.methods.choosing import training_losses
from prompttransfer.methods.context import Context, EncodedTask, MethodResult, stack
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.related import FirstUpdates, first_updates, without_transfer
from prompttransfer.methods.shared import (
    joined_loss,
    own_prompt,
    own_share,
    similarity_history,
    source_cost,
    source_prompts,
)
from prompttransfer.methods.spot import from_nearest
from prompttransfer.prompts import GroupedPrompt, JoinedPrompt, group_rule
from prompttransfer.rows import Rows


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
    """Prompt tuning in one stage; after its first updates the vectors of related sources join, at the method's rates.

    Schedule, optimizer state and order of the batches continue. Without a related source this is prompt tuning.
    """
    first = first_updates(ctx, target)
    if not first.test.related:
        return without_transfer(ctx, target, first)
    dtvg, tuning = ctx.config.dtvg, ctx.of(target, "PT")
    rate, tuning_rate = ctx.config.target_rate, tuning.config.target_rate
    source_rate = rate if dtvg.source_scale_learning_rate is None else dtvg.source_scale_learning_rate
    sources = stack(source_prompts(ctx))[first.test.related]
    weight, spent = _join_weight(ctx, target, first, sources)
    prompt = JoinedPrompt(ctx.start, sources, scaling=dtvg.scaling)

    def join() -> list[float]:
        prompt.join(weight)
        return [rate, source_rate]

    batches, updates = ctx.target_batches(target), first.facts["updates"]
    plan = tuning.plan(
        prompt,
        task_loss,
        target.train,
        [*batches[:updates], *batches[updates + spent :]],
        tuning_rate,
        [target],
        groups=prompt.parameter_groups(tuning_rate, source_rate),
        horizon=len(batches),
        turn=(updates, join),
    )
    settings = {"rates after": [rate, source_rate], "weight": weight}
    facts = ctx.run(f"{target.name}: DTVG with related sources", plan, settings).facts
    merged = [first.names[place] for place in first.test.related]
    return MethodResult(
        prompt=prompt.composed().cpu(),
        other_prompts={"own": prompt.prompt.detach().clone()},
        trainable_parameters=facts["trainable_parameters"],
        target_updates=facts["updates"] + spent,
        target_examples=sum(map(len, batches)),
        source_updates=source_cost(ctx),
        seconds=facts["seconds"],
        history={
            "loss": facts["loss"],
            "groups": [[update, merged] for update in range(updates + 1, facts["updates"] + 1)],
            "related": first.history(),
        },
        notes=f"{first.note}; joined at {weight:g}",
    )


def _join_weight(ctx: Context, target: EncodedTask, first: FirstUpdates, sources: Tensor) -> tuple[float, int]:
    """The share of the sources (K, L, H) with the least loss on the next two batches, and the updates that this costs.

    An update reads a batch forward and backward, which takes as long as three passes forward.
    """
    weights, rows = ctx.config.dtvg.join_weights, [row for batch in first.batches[:2] for row in batch]
    spent = math.ceil(len(weights) * 2 / 3) if len(weights) > 1 else 0
    if spent >= len(first.batches):  # nothing would be left to train with
        return 0.0, 0
    if not spent:
        return weights[0], 0
    mean = sources.mean(dim=0)
    tried = torch.stack([torch.lerp(first.prompt, mean, weight) for weight in weights])
    some = replace(target, train=Rows.of(target.train[row] for row in rows))
    losses = training_losses(ctx, tried, some, "weights of the sources")
    return weights[losses.index(min(losses))], spent
