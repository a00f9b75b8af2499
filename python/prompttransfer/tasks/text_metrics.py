"""Scores of free-text answers in percent, from the predictions and all answers that count as right."""

from __future__ import annotations

from collections.abc import Callable, Sequence

References = Sequence[Sequence[str]]


def text_score(metric: str, references: References, predictions: Sequence[str]) -> float:
    """Score of predicted strings in percent.

    Args:
        metric: a name of TEXT_METRICS.
        references: for every row the answers that count as right, at least one.
        predictions: one string for every row.

    Raises:
        ValueError: unknown metric, no rows, or rows that do not match.
    """
    if metric not in TEXT_METRICS:
        raise ValueError(f"metric: got {metric!r}, want one of {', '.join(TEXT_METRICS)}")
    if len(references) != len(predictions):
        raise ValueError(f"predictions: got {len(predictions)} for {len(references)} rows, want one each")
    if not len(references) or not all(len(row) for row in references):
        raise ValueError("references: want at least one row, and at least one right answer for every row")
    return round(float(TEXT_METRICS[metric](references, predictions)), 9)


def _exact_match(references: References, predictions: Sequence[str]) -> float:
    right = [
        prediction.strip() in {answer.strip() for answer in row}
        for row, prediction in zip(references, predictions, strict=True)
    ]
    return 100 * sum(right) / len(right)


TEXT_METRICS: dict[str, Callable[[References, Sequence[str]], float]] = {"exact-match": _exact_match}
