"""Input and output of a training: its plan and its log."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from prompttransfer.models import Backbone, Batch
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import PromptModule
from prompttransfer.training.selection import Selection

Objective = Callable[[Backbone, PromptModule, Batch], Tensor]


@dataclass
class Plan:
    """One optimization: prompt, loss, batches and rates. The number of updates is the number of batches.

    Args:
        prompt: prompt to train in place.
        objective: (backbone, prompt, batch) -> scalar loss. Each process computes it for its part of the batch, and
            the average over the processes is used, see `prompttransfer.distributed.shares`.
        rows: examples that the batches index.
        batches: row indices of every update, in order.
        groups: parameter groups with their peak rates; None: the prompt's own groups at learning_rate.
        before_step: called after the backward pass (and the clipping) of every update.
        whole_batches: every process reads whole batches, because the objective splits the work differently.
        selection: keep the prompt that is best on validation rows; None: keep the last one.
        dropout: seed of the masks of the model's own dropout; None: no dropout.
        horizon: updates that the schedule spans, if this plan covers only part of it; None: all batches.
        offset: updates of the schedule that came before.
    """

    prompt: PromptModule
    objective: Objective
    rows: Sequence[EncodedRow]
    batches: Sequence[Sequence[int]]
    learning_rate: float
    groups: list[dict[str, Any]] | None = None
    schedule: str = "linear"
    warmup_updates: int = 0
    weight_decay: float = 1e-5
    max_grad_norm: float = 1.0
    before_step: Callable[[], None] | None = None
    whole_batches: bool = False
    selection: Selection | None = None
    dropout: int | None = None
    horizon: int | None = None
    offset: int = 0


@dataclass
class TrainingLog:
    """Report of a finished optimization. `kept` is the update that validation rows chose, and its score."""

    updates: int
    examples: int
    seconds: float
    loss: list[list[float]] = field(default_factory=list)
    kept: tuple[int, float] | None = None


# Fraction of the peak rate after the warm-up, by the fraction of the updates left.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "constant_with_warmup": lambda left: 1.0,
}


def rate_factor(schedule: str, warmup: int, updates: int) -> Callable[[int], float]:
    """Fraction of the peak rate at update 0, 1, ...: rising over `warmup` updates, then as in SCHEDULES.

    Unlike in transformers' schedules, the first update does not have rate 0: in a small budget, every update counts.
    """

    def factor(update: int) -> float:
        if update < warmup:
            return (update + 1) / (warmup + 1)
        return SCHEDULES[schedule](1 - (update - warmup) / max(1, updates - warmup))

    return factor
