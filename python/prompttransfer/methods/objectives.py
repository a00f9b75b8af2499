"""The loss of every target stage: (backbone, prompt, batch) -> scalar."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from prompttransfer.distributed.shares import whole_mean
from prompttransfer.models import IGNORED, Backbone, Batch
from prompttransfer.prompts import PromptModule


def task_loss(backbone: Backbone, prompt: PromptModule, batch: Batch) -> Tensor:
    """Cross-entropy of the answers over the whole vocabulary (MPT eq. 1), mean over the answer tokens of all rows."""
    logits = backbone(prompt, batch, task_ids=batch["task_ids"]).logits
    return whole_mean(cross_entropy(logits, batch["labels"]), len(logits))


def cross_entropy(logits: Tensor, labels: Tensor, reduction: str = "mean") -> Tensor:
    """Cross-entropy of logits (N, V) against labels (B, A). The N logits are those of the answer tokens, row by row.

    Args:
        reduction: "mean" over all tokens, or "rows" for -log p(y | x) of each row, summed over its tokens, (B,).
    """
    if labels.shape[1] == 1:  # one token per row: reading the labels would wait for the GPU
        return F.cross_entropy(logits, labels[:, 0], reduction="none" if reduction == "rows" else reduction)
    real = labels != IGNORED
    if reduction == "mean":
        return F.cross_entropy(logits, labels[real])
    losses = logits.new_zeros(labels.shape)
    losses[real] = F.cross_entropy(logits, labels[real], reduction="none")
    return losses.sum(dim=1)
