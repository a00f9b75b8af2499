"""MPT's source loss (Wang et al. 2023): task loss plus distillation from one teacher prompt per source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prompttransfer.distributed.shares import whole_mean
from prompttransfer.methods.objectives import cross_entropy, task_loss
from prompttransfer.models import Backbone, Batch, Output
from prompttransfer.prompts import FrozenPrompts, PromptModule

# (backbone, batch) -> a function that lays out the teachers' output for the same rows as the student's output. Two
# steps, so that the teachers' forward frees its memory before the student's graph exists.
Teacher = Callable[[Backbone, Batch], Callable[[Output], Output]]


def logit_distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of logits (N, V) softened by the temperature; mean over answer tokens (MPT eq. 3)."""
    target = F.log_softmax(teacher / temperature, dim=-1)
    mean = F.kl_div(F.log_softmax(student / temperature, dim=-1), target, reduction="batchmean", log_target=True)
    return whole_mean(mean, len(student))


def hidden_distillation(student: Output, teacher: Output) -> Tensor:
    """Squared difference of hidden states (MPT eq. 4): mean over width and unmasked positions, then over layers."""
    losses = []
    for (ours, mask), (theirs, _) in zip(student.hidden, teacher.hidden, strict=True):
        error = (ours.float() - theirs.float()).square().mean(dim=-1)
        positions = mask.sum()
        losses.append(whole_mean((error * mask).sum() / positions.clamp(min=1), positions))
    return torch.stack(losses).mean()


@dataclass
class TeacherForward:
    """The teachers' output, recomputed for every batch. Task ids choose the teacher."""

    prompts: FrozenPrompts
    hidden: str = "last"
    hidden_positions: str = "text"

    def __call__(self, backbone: Backbone, batch: Batch) -> Callable[[Output], Output]:
        output = self.output(backbone, batch)
        return lambda student: output  # already in the student's layout: same forward, same batch

    @torch.no_grad()
    def output(self, backbone: Backbone, batch: Batch) -> Output:
        wanted = {"hidden": self.hidden, "hidden_positions": self.hidden_positions}
        return backbone(self.prompts, batch, task_ids=batch["task_ids"], **wanted)


@dataclass
class DistillationLoss:
    """MPT's source loss (eq. 5): task loss + weight * (logit distillation + hidden-state distillation).

    Args:
        teacher: source of the teachers' outputs.
        temperature_squared: whether to multiply the logit part by temperature^2.
        hidden: "none", "last" or "all" layers.
        hidden_positions: "text" or "all".
    """

    teacher: Teacher
    weight: float = 0.9
    temperature: float = 1.0
    temperature_squared: bool = False
    logits: bool = True
    hidden: str = "last"
    hidden_positions: str = "text"

    def __call__(self, backbone: Backbone, prompt: PromptModule, batch: Batch) -> Tensor:
        taught = self.teacher(backbone, batch)
        wanted = {"hidden": self.hidden, "hidden_positions": self.hidden_positions}
        student = backbone(prompt, batch, task_ids=batch["task_ids"], **wanted)
        loss = whole_mean(cross_entropy(student.logits, batch["labels"]), len(student.logits))
        teacher = taught(student)
        if self.logits:
            scale = self.temperature**2 if self.temperature_squared else 1.0
            divergence = logit_distillation(student.logits, teacher.logits, self.temperature)
            loss = loss + self.weight * scale * divergence
        if student.hidden:
            loss = loss + self.weight * hidden_distillation(student, teacher)
        return loss


@dataclass
class PromptDistance:
    """Ablation without outputs: task loss + weight * mean squared distance of each row's prompt to its teacher."""

    teachers: FrozenPrompts
    weight: float = 0.9

    def __call__(self, backbone: Backbone, prompt: PromptModule, batch: Batch) -> Tensor:
        ids = batch["task_ids"]
        nothing = self.teachers.prompts.new_empty(len(ids), 0, prompt.hidden_size)
        distance = F.mse_loss(prompt.prepend(nothing, ids), self.teachers.prompts[ids])
        return task_loss(backbone, prompt, batch) + self.weight * whole_mean(distance, len(ids))
