"""Task prompt vectors (Belanec et al. 2024): start from P_init + scale * sum of (P_source - P_init).

The sum alone is a zero-shot prompt of the target (`tune` off); by default it is trained on with the target's budget.
"""

from __future__ import annotations

import torch

import promptkernels as pk
from prompttransfer.methods.context import Context, EncodedTask, MethodResult, stack
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.shared import similarity_history, source_cost, source_prompts
from prompttransfer.prompts import SoftPrompt


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    config, tpv = ctx.config, ctx.config.tpv
    sources = stack(source_prompts(ctx))
    names = [source.name for source in ctx.sources]
    start = pk.merge_task_vectors(ctx.start, sources, weights=torch.full((len(sources),), tpv.scale))
    prompt = SoftPrompt(start)
    facts = {"trainable_parameters": 0, "updates": 0, "examples": 0, "seconds": 0.0, "loss": []}
    if tpv.tune:
        plan = ctx.plan(prompt, task_loss, target.train, ctx.target_batches(target), config.target_rate, [target])
        facts = ctx.run(f"{target.name}: TPV", plan).facts
    return MethodResult(
        prompt=prompt.composed().cpu(),
        other_prompts={"sum": start},
        trainable_parameters=facts["trainable_parameters"],
        target_updates=facts["updates"],
        target_examples=facts["examples"],
        source_updates=source_cost(ctx),
        seconds=facts["seconds"],
        history={"loss": facts["loss"], "similarity": similarity_history(names, sources, ctx.start)},
        notes="" if tpv.tune else "zero-shot sum",
    )
