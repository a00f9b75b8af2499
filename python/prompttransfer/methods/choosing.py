"""Loss of candidate prompts on a target's training rows, before any training on it.

These are forward passes only; they do not count as updates of the target's budget.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from prompttransfer.files.store import StageResult, tensor_hash
from prompttransfer.methods.context import CODE_VERSION, Context, EncodedTask
from prompttransfer.methods.objectives import cross_entropy
from prompttransfer.models.rows import EncodedRows
from prompttransfer.prompts import FrozenPrompts

_ROWS = 256  # largest number of rows to score prompts on


def training_losses(ctx: Context, prompts: Tensor, target: EncodedTask, title: str) -> list[float]:
    """Mean of -log p(y | x) of every prompt (N, L, H) over at most 256 of the target's training rows."""
    rows, size, device = target.train[:_ROWS], ctx.config.eval_batch_size, ctx.backbone.device
    key = {
        "stage": "training losses",
        "likelihood": "whole answers",
        "version": CODE_VERSION,
        **ctx.backbone.identity,
        "prompts": tensor_hash(prompts),
        "rows": EncodedRows.of(rows).digest,
    }

    @torch.no_grad()
    def loss(prompt: Tensor) -> float:
        module, total = FrozenPrompts(prompt[None]).to(device), 0.0
        for first in ctx.backbone.share(range(0, len(rows), size)):
            part = rows[first : first + size]
            batch = ctx.backbone.collate([row.ids for row in part], [row.answer for row in part])
            batch = {name: tensor.to(device) for name, tensor in batch.items()}
            total += cross_entropy(ctx.backbone(module, batch).logits, batch["labels"], "rows").sum().item()
        return total / len(rows)

    def compute(_: Path) -> StageResult:
        losses = []
        with closing(ctx.progress.stage(f"{target.name}: {title}", len(prompts))) as handle:
            for prompt in prompts:
                losses.append(loss(prompt))
                handle.advance(1)
        return StageResult({}, {"losses": ctx.backbone.joined(torch.tensor(losses, dtype=torch.float64)).tolist()})

    return ctx.store.cached(key, compute).facts["losses"]
