"""ATTEMPT (Asai et al. 2022): every row attends to the frozen source prompts and to the target's own prompt."""

from __future__ import annotations

import torch
from torch import Tensor

from prompttransfer.methods.context import Context, EncodedTask, MethodResult, stack
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.shared import source_cost, source_prompts
from prompttransfer.models import Backbone
from prompttransfer.prompts import InstancePrompt
from prompttransfer.rows import Row


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    config, attempt = ctx.config, ctx.config.attempt
    sources = stack(source_prompts(ctx))
    prompt = InstancePrompt(
        sources,
        sources[0] if attempt.start == "first_source" else ctx.start,
        projection=attempt.projection,
        temperature=attempt.temperature,
        mask_padding=attempt.mask_padding,
        train_norm=attempt.train_norm,
        seed=ctx.seed,
    )
    groups = prompt.parameter_groups(config.target_rate, attempt.attention_learning_rate)
    batches = ctx.target_batches(target)
    plan = ctx.plan(prompt, task_loss, target.train, batches, config.target_rate, [target], groups=groups)
    facts = ctx.run(f"{target.name}: ATTEMPT", plan, {"attends to": "text"}).facts
    mean, attention = average_over(ctx.backbone, prompt, target.train, config.eval_batch_size)
    names = [*(source.name for source in ctx.sources), target.name]
    return MethodResult(
        prompt=mean,
        module=prompt,
        other_prompts={"own": prompt.target.detach()},
        trainable_parameters=facts["trainable_parameters"],
        target_updates=facts["updates"],
        target_examples=facts["examples"],
        source_updates=source_cost(ctx),
        seconds=facts["seconds"],
        history={"loss": facts["loss"], "attention": dict(zip(names, attention.tolist(), strict=True))},
        notes="depends on the row: scored as a module; the prompt file holds the mean over the training rows",
    )


@torch.no_grad()
def average_over(
    backbone: Backbone, prompt: InstancePrompt, rows: tuple[Row, ...], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Prompt (L, H) and attention (K+1,), mean over rows; prompt and results are on the CPU."""
    total, attention = torch.zeros_like(prompt.target), torch.zeros(len(prompt.sources) + 1)
    for first in range(0, len(rows), batch_size):
        batch = backbone.collate([row.ids for row in rows[first : first + batch_size]])
        embeds = backbone.embedding(batch["input_ids"].to(backbone.device)).cpu()
        total += prompt.of_rows(embeds, batch["attention_mask"]).sum(dim=0)
        attention += prompt.attention(embeds, batch["attention_mask"]).sum(dim=0)
    return total / len(rows), attention / len(rows)
