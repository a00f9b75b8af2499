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
from prompttransfer.methods.shared import (
    joined_loss,
    own_prompt,
    own_share,
    similarity_history,
    source_cost,
    source_prompts,
)
from prompttransfer.prompts import GroupedPrompt, JoinedPrompt, group_rule


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    config, dtvg = ctx.config, ctx.config.dtvg
    if dtvg.grouping == "related":
        return _with_related(ctx, target)
    sources = stack(source_prompts(ctx))
    updates = target_budget(config, len(target.train)).own or own_share(ctx, target, dtvg.own_fraction)
    own, first, batches = own_prompt(ctx, target, updates, dtvg.own_learning_rate)
    rule = {"consistency_weight": dtvg.consistency_weight, "positive_only": dtvg.positive_only}
    settings = {name: getattr(dtvg, name) for name in ("grouping", "metric", "scaling", "scale_start")}
    prompt = GroupedPrompt(ctx.start, sources, own, rule=group_rule(dtvg.rule, **rule), **settings)
    groups = prompt.parameter_groups(
        config.target_rate, dtvg.target_scale_learning_rate, dtvg.source_scale_learning_rate
    )
    decay = {} if dtvg.weight_decay is None else {"weight_decay": dtvg.weight_decay}
    plan = ctx.plan(prompt, task_loss, target.train, batches, config.target_rate, [target], groups=groups, **decay)
    second = ctx.run(f"{target.name}: DTVG", plan, {"rule": dtvg.rule} | rule | settings)
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

    Schedule, optimizer state and order of the batches go on, so without a related source this is prompt tuning.
    """
    dtvg, alone = ctx.config.dtvg, ctx.of(target, "PT")
    names, rate = [source.name for source in ctx.sources], ctx.config.target_rate
    source_rate = rate if dtvg.source_scale_learning_rate is None else dtvg.source_scale_learning_rate
    level = ctx.config.related.level
    prompt = JoinedPrompt(ctx.start, stack(source_prompts(ctx)), level=level, scaling=dtvg.scaling)
    updates = own_share(alone, target, ctx.config.related.own_fraction)
    plan = alone.plan(
        prompt,
        task_loss,
        target.train,
        ctx.target_batches(target),
        alone.config.target_rate,
        [target],
        groups=prompt.parameter_groups(alone.config.target_rate, source_rate),
        turn=(updates, lambda: [rate, source_rate] if prompt.join() else None),
    )
    facts = ctx.run(f"{target.name}: DTVG", plan, {"rate": rate, "level": level}).facts
    merged = [names[place] for place in prompt.test.related]
    return MethodResult(
        prompt=prompt.composed().cpu(),
        other_prompts={"own": prompt.prompt.detach().clone()},
        trainable_parameters=facts["trainable_parameters"],
        target_updates=facts["updates"],
        target_examples=facts["examples"],
        source_updates=source_cost(ctx),
        seconds=facts["seconds"],
        history={
            "loss": facts["loss"],
            "groups": [[update, merged] for update in range(updates + 1, facts["updates"] + 1)],
            "related": {"names": names, **prompt.test.history()},
        },
        notes=prompt.test.note(names),
    )
