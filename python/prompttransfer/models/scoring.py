"""Scores of a finished prompt on the test rows of a task."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from prompttransfer.models import Backbone
from prompttransfer.models.answering import Reader
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.prompts import PromptModule
from prompttransfer.tasks.metrics import collapsed, correlation, majority_score, score
from prompttransfer.tasks.text_metrics import majority_text_score, text_score


@dataclass(frozen=True)
class Evaluation:
    """Scores in percent.

    Attributes:
        score: score by the task's reported metric.
        majority: score of giving every row the most frequent answer.
        collapsed: whether (nearly) all rows got the same answer.
        predictions: for every row, the index of a choice (-1 if the generated text is none of them), the generated
            number (-1.0 if the text is not a number), or the text.
        more: scores by the task's other metrics.
    """

    score: float
    majority: float
    collapsed: bool
    rows: int
    predictions: list[int] | list[float] | list[str]
    more: dict[str, float] = field(default_factory=dict)


def predict(
    backbone: Backbone,
    prompt: Tensor | PromptModule | None,
    task: EncodedTask,
    *,
    batch_size: int = 32,
    advance: Callable[[int], None] | None = None,
) -> list[int] | list[float] | list[str]:
    """Answer every test row: with the index of a choice (-1: none of them), a number of a scale, or free text.

    Args:
        prompt: (L, H), a module whose prompt depends on the row, or None for the model alone (zero-shot).

    Raises:
        ValueError: the prompt's width differs from the model's.
    """
    reader = Reader(backbone, prompt, batch_size, advance)
    if task.scoring != "generate":
        return choice_scores(reader, task).argmax(dim=1).tolist()
    written = written_answers(reader, task)
    if task.scale:
        return [number_of(text) for text in written]
    # Also compare with the choices as this model writes them; its tokenizer may be lower-case only.
    decoded = backbone.tokenizer.batch_decode([list(ids) for ids in task.answers], skip_special_tokens=True)
    named = (*decoded, *task.choices)
    places = {choice.strip(): place % len(task.choices) for place, choice in enumerate(named)} if task.choices else {}
    return [places.get(text, -1) for text in written] if task.choices else written


def number_of(text: str) -> float:
    """Parse a text as a number; -1 for any other text."""
    try:
        number = float(text)
    except ValueError:
        return -1.0
    return number if math.isfinite(number) else -1.0


def choice_scores(reader: Reader, task: EncodedTask) -> Tensor:
    """Scores (rows, C) of the task's C choices after every test row. Depending on its scoring, they are logits of the
    first tokens or mean log-probabilities of all tokens. The largest one is the answer."""
    if task.scoring == "first-token":
        return reader.first_token_scores(task.test, [answer[0] for answer in task.answers])
    return reader.answer_scores(task.test, task.answers)


def written_answers(reader: Reader, task: EncodedTask) -> list[str]:
    """Text that the model generates after every test row."""
    return reader.write(task.test, longest_answer(task))


def longest_answer(task: EncodedTask) -> int:
    """Largest number of tokens to generate, without an end token."""
    # One token more than the longest choice: text that continues after a choice is a different answer.
    return max(map(len, task.answers)) if task.choices else task.max_answer


def evaluate(
    backbone: Backbone,
    prompt: Tensor | PromptModule | None,
    task: EncodedTask,
    *,
    batch_size: int = 32,
    advance: Callable[[int], None] | None = None,
) -> Evaluation:
    """Predict and score in percent; see `predict`."""
    predictions = predict(backbone, prompt, task, batch_size=batch_size, advance=advance)
    if task.scale:
        numbers = [float(choice) for choice in task.choices]
        answers = predictions if task.scoring == "generate" else [numbers[place] for place in predictions]
        scores = [correlation(metric, [numbers[label] for label in task.labels], answers) for metric in task.metrics]
        majority = majority_score(task.metric, task.labels)
    elif task.choices:
        scores = [score(metric, task.labels, predictions) for metric in task.metrics]
        majority = majority_score(task.metric, task.labels)
    else:
        scores = [text_score(metric, task.references, predictions) for metric in task.metrics]
        majority = majority_text_score(task.metric, task.references)
    more = dict(zip(task.metrics[1:], scores[1:], strict=True))
    return Evaluation(scores[0], majority, collapsed(predictions), len(predictions), predictions, more)
