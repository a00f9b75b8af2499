"""SPoT (Vu et al. 2022): go on from the source prompt most similar to the target's own.

Task embedding: the prompt averaged over its tokens; similarity: cosine. The target's own prompt takes a share of the
target budget, the transfer stage the rest.
"""

from __future__ import annotations

import torch

import promptkernels as pk
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
from prompttransfer.prompts import SoftPrompt


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    sources = stack(source_prompts(ctx))
    own, first, batches = own_prompt(ctx, target, own_share(ctx, target, ctx.config.spot.own_fraction))
    similarity = pk.task_similarity(own[None], others=sources, metric="token_mean_cosine")[0]
    best = int(similarity.argmax())
    prompt = SoftPrompt(sources[best])
    second = ctx.run(
        f"{target.name}: SPoT", ctx.plan(prompt, task_loss, target.train, batches, ctx.config.target_rate, [target])
    )
    names = [source.name for source in ctx.sources]
    return MethodResult(
        prompt=prompt.composed().cpu(),
        other_prompts={"own": own},
        trainable_parameters=second.facts["trainable_parameters"],
        target_updates=first.facts["updates"] + second.facts["updates"],
        target_examples=first.facts["examples"] + second.facts["examples"],
        source_updates=source_cost(ctx),
        seconds=first.facts["seconds"] + second.facts["seconds"],
        history={
            "loss": joined_loss(first, second),
            "similarity": similarity_history([*names, target.name], torch.cat([sources, own[None]]), ctx.start),
        },
        notes=f"from {names[best]} (cosine {similarity[best]:.3f})",
    )
