"""The loss of every target stage: (backbone, prompt, batch) -> scalar."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from prompttransfer.models import Backbone, Batch
from prompttransfer.prompts import PromptModule


def task_loss(backbone: Backbone, prompt: PromptModule, batch: Batch) -> Tensor:
    """Cross-entropy of the answer's first token over the whole vocabulary, mean over rows."""
    return F.cross_entropy(backbone(prompt, batch, task_ids=batch["task_ids"]).logits, batch["labels"])
