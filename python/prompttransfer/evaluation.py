"""Scores of a finished prompt: answer strings ranked by the logit of their first token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prompttransfer.models import Backbone
from prompttransfer.prompts import FrozenPrompts, PromptModule
from prompttransfer.tasks.metrics import collapsed, majority_score, score


@dataclass(frozen=True)
class Evaluation:
    """Scores in percent; collapsed: (nearly) all rows got one answer."""

    score: float
    majority: float
    collapsed: bool
    rows: int
    predictions: list[int]


@torch.no_grad()
def predict(
    backbone: Backbone,
    prompt: Tensor | PromptModule | None,
    rows: Sequence[Sequence[int]],
    answers: Sequence[int],
    *,
    batch_size: int = 32,
    advance: Callable[[int], None] | None = None,
) -> list[int]:
    """Index of the best answer for every row of token ids.

    Args:
        prompt: (L, H); a module whose prompt depends on the row; or None for the model alone (zero-shot).
        answers: first token of each answer, see `Backbone.answer_tokens`.
    """
    module = FrozenPrompts(prompt[None]) if isinstance(prompt, Tensor) else prompt
    if module is not None:
        module.to(backbone.device)
    prefix = None if module is None else backbone.read(module)
    # Rows of like length share a batch: little padding. The padded positions are masked, so the order has no effect.
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    predictions = [0] * len(rows)
    columns = torch.tensor(answers, device=backbone.device)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        batch = {name: t.to(backbone.device) for name, t in backbone.collate([rows[index] for index in chosen]).items()}
        best = backbone(module, batch, prefix=prefix).logits[:, columns].argmax(dim=1).tolist()
        for index, choice in zip(chosen, best, strict=True):
            predictions[index] = choice
        if advance:
            advance(len(chosen))
    return predictions


def evaluate(
    backbone: Backbone,
    prompt: Tensor | PromptModule | None,
    rows: Sequence[Sequence[int]],
    labels: Sequence[int],
    answers: Sequence[int],
    metric: str,
    *,
    batch_size: int = 32,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict and score in percent; see `predict`."""
    if prompt is not None:
        width = prompt.shape[-1] if isinstance(prompt, Tensor) else prompt.hidden_size
        if width != backbone.hidden_size:
            raise ValueError(f"prompt: got width {width}, the model wants {backbone.hidden_size}")
    predictions = predict(backbone, prompt, rows, answers, batch_size=batch_size, advance=advance)
    return Evaluation(
        score(metric, labels, predictions),
        majority_score(metric, labels),
        collapsed(predictions),
        len(rows),
        predictions,
    )
