"""Losses of the training stages: (backbone, prompt, batch) -> scalar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prompttransfer.models import Backbone, Batch, Output
from prompttransfer.prompts import FrozenPrompts, ParticlePrompts, PromptModule


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


@dataclass
class ParticleLoss:
    """-log p(theta_m | sources) / evidence, mean over the M particles; all particles read all rows in one forward.

    The likelihood is the weighted sum over the sources of their mean loss in the batch (weights renormalised to the
    sources present), tempered to `evidence` rows. With prior_std the prior is N(P_init, prior_std^2), else it is flat.
    """

    weights: Sequence[float]
    evidence: float
    prior_std: float | None = None

    def __call__(self, backbone: Backbone, prompt: ParticlePrompts, batch: Batch) -> Tensor:
        rows, count = batch["input_ids"].shape[0], prompt.count
        repeated = {name: batch[name].repeat(count, 1) for name in ("input_ids", "attention_mask")}
        particle = torch.arange(count, device=backbone.device).repeat_interleave(rows)
        logits = backbone(prompt, repeated, task_ids=particle).logits
        losses = F.cross_entropy(logits, batch["labels"].repeat(count), reduction="none").view(count, rows)
        loss = (losses @ self.row_weights(batch["task_ids"])).mean()
        if self.prior_std is not None:
            distance = (prompt.particles - prompt.reference).square().sum(dim=(1, 2)).mean()
            loss = loss + distance / (2 * self.prior_std**2 * self.evidence)
        return loss

    def row_weights(self, task_ids: Tensor) -> Tensor:
        """(B,) weights of sum 1: a source's weight, shared by its rows."""
        weights = torch.tensor(self.weights, dtype=torch.float32, device=task_ids.device)
        counts = torch.bincount(task_ids, minlength=len(weights))
        per_row = (weights / counts.clamp(min=1))[task_ids]
        return per_row / per_row.sum()


@dataclass
class PriorLoss:
    """Task loss + strength * (-log prior of the composed prompt): BMTPT's target stage."""

    penalty: Callable[[Tensor], Tensor]
    strength: float

    def __call__(self, backbone: Backbone, prompt: PromptModule, batch: Batch) -> Tensor:
        return task_loss(backbone, prompt, batch) + self.strength * self.penalty(prompt.prompt)


def gaussian_penalty(particles: Tensor, std_floor: float) -> Callable[[Tensor], Tensor]:
    """-log N(theta; mean, diagonal variance of the particles) up to a constant: |(theta - mean) / std|^2 / 2."""
    mean = particles.mean(dim=0)
    variance = particles.var(dim=0, unbiased=False).clamp(min=std_floor**2)
    return lambda theta: ((theta - mean).square() / variance).sum() / 2


def mixture_penalty(particles: Tensor, std_floor: float) -> Callable[[Tensor], Tensor]:
    """-log of an equal mixture of isotropic Gaussians at the particles, up to a constant."""
    variance = particles.var(dim=0, unbiased=False).mean().clamp(min=std_floor**2)

    def penalty(theta: Tensor) -> Tensor:
        distance = (theta - particles).square().sum(dim=(1, 2))
        return -torch.logsumexp(-distance / (2 * variance), dim=0) + torch.log(torch.tensor(float(len(particles))))

    return penalty
