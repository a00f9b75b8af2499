"""What a training is asked to do, and what it reports."""

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
    """One optimization: what is trained, on what, how fast. The number of updates is the number of batches.

    Args:
        prompt: trained in place.
        objective: (backbone, prompt, batch) -> scalar loss; the average over the processes of what each computes for
            its part of the batch is taken, see `prompttransfer.distributed.shares`.
        rows: the examples that the batches index.
        batches: row indices of every update, in order.
        groups: parameter groups with their peak rates; the prompt's own at learning_rate when not given.
        before_step: called after the backward pass (and the clipping) of every update.
        whole_batches: every process reads whole batches; the objective shares the work out in another way.
        selection: keep the prompt that is best on validation rows; none: the last one.
        dropout: seed of the masks of the model's own dropout; none: no dropout.
        horizon: updates that the schedule spans, where this plan makes only some of them; none: all its batches.
        offset: updates of the schedule that were made before.
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
    """What a finished optimization reports; kept: the update whose prompt validation rows chose, and its score."""

    updates: int
    examples: int
    seconds: float
    loss: list[list[float]] = field(default_factory=list)
    kept: tuple[int, float] | None = None


# What is left of the peak rate after the warm-up, by the share of the updates that is left.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda left: left,
    "cosine": lambda left: (1 - math.cos(math.pi * left)) / 2,
    "constant_with_warmup": lambda left: 1.0,
}


def rate_factor(schedule: str, warmup: int, updates: int) -> Callable[[int], float]:
    """Share of the peak rate at update 0, 1, ...: rising over `warmup` updates, then as in SCHEDULES.

    No update has rate 0, as the first one has in transformers' schedules: in a budget of a few updates each one counts.
    """

    def factor(update: int) -> float:
        if update < warmup:
            return (update + 1) / (warmup + 1)
        return SCHEDULES[schedule](1 - (update - warmup) / max(1, updates - warmup))

    return factor
