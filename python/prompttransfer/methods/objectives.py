"""Losses of the training stages: (backbone, prompt, batch) -> scalar."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prompttransfer.models import Backbone, Batch, Output
from prompttransfer.prompts import FrozenPrompts, PromptModule


def task_loss(backbone: Backbone, prompt: PromptModule, batch: Batch) -> Tensor:
    """Cross-entropy of the answer's first token over the whole vocabulary, mean over rows."""
    return F.cross_entropy(backbone(prompt, batch, task_ids=batch["task_ids"]).logits, batch["labels"])


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of logits (B, V) softened by the temperature, mean over rows (MPT eq. 3)."""
    target = F.log_softmax(teacher / temperature, dim=-1)
    return F.kl_div(F.log_softmax(student / temperature, dim=-1), target, reduction="batchmean", log_target=True)


def hidden_distillation(student: Output, teacher: Output) -> Tensor:
    """Squared difference of hidden states (MPT eq. 4): mean over width and unmasked positions, then over layers."""
    losses = []
    for (ours, mask), (theirs, _) in zip(student.hidden, teacher.hidden, strict=True):
        error = (ours.float() - theirs.float()).square().mean(dim=-1)
        losses.append((error * mask).sum() / mask.sum().clamp(min=1))
    return torch.stack(losses).mean()


@dataclass
class DistillationLoss:
    """MPT's source loss (eq. 5): task loss + weight * (logit distillation + hidden-state distillation).

    Args:
        teachers: one finished prompt per task id.
        hidden: "none", "last" or "all" layers; hidden_positions: "text" or "all".
    """

    teachers: FrozenPrompts
    weight: float = 0.9
    temperature: float = 1.0
    logits: bool = True
    hidden: str = "last"
    hidden_positions: str = "text"

    def __call__(self, backbone: Backbone, prompt: PromptModule, batch: Batch) -> Tensor:
        ids, wanted = batch["task_ids"], {"hidden": self.hidden, "hidden_positions": self.hidden_positions}
        student = backbone(prompt, batch, task_ids=ids, **wanted)
        loss = F.cross_entropy(student.logits, batch["labels"])
        if self.weight == 0 or not (self.logits or student.hidden):
            return loss
        with torch.no_grad():
            teacher = backbone(self.teachers, batch, task_ids=ids, **wanted)
        if self.logits:
            loss = loss + self.weight * logit_distillation(student.logits, teacher.logits, self.temperature)
        if student.hidden:
            loss = loss + self.weight * hidden_distillation(student, teacher)
        return loss
