"""Scores in percent, the score of the majority class, and the mark of a collapsed prediction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def score(metric: str, labels: Sequence[int], predictions: Sequence[int]) -> float:
    """Score of predictions in percent (correlations: -100..100).

    Args:
        metric: accuracy, f1 (of class 1, two classes), macro-f1, matthews or pearson.
        labels, predictions: class indices (pearson: their order is taken as the scale), equally long, not empty.

    Raises:
        ValueError: unknown metric, no rows, or rows that do not match.
    """
    if metric not in METRICS:
        raise ValueError(f"metric: got {metric!r}, want one of {', '.join(METRICS)}")
    if len(labels) != len(predictions):
        raise ValueError(f"predictions: got {len(predictions)} for {len(labels)} labels, want one each")
    if not len(labels):
        raise ValueError("labels: got no rows, want at least one to score")
    # Rounded far below one row of any test set: 54.5, not 54.50000000000001.
    return round(100.0 * float(METRICS[metric](np.asarray(labels), np.asarray(predictions))), 9)


def majority_score(metric: str, labels: Sequence[int]) -> float:
    """Score in percent of answering every row with its most frequent label (the lowest of equally frequent ones)."""
    counts = Counter(int(label) for label in labels)
    if not counts:
        raise ValueError("labels: got no rows, want at least one to score")
    most = max(sorted(counts), key=lambda label: counts[label])
    return score(metric, labels, [most] * len(labels))


def collapsed(predictions: Sequence[int], share: float = 0.98) -> bool:
    """Whether one class is predicted for at least `share` of the rows."""
    counts = Counter(int(prediction) for prediction in predictions)
    return bool(counts) and max(counts.values()) >= share * len(predictions)


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    classes = set(np.unique(labels)) | set(np.unique(predictions))
    if not classes <= {0, 1}:
        raise ValueError(f"metric 'f1' wants classes 0 and 1, got {sorted(map(int, classes))}; use macro-f1")
    return f1_score(labels, predictions, zero_division=0)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    return f1_score(labels, predictions, average="macro", zero_division=0)


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    # A constant has no correlation; scikit-learn scores it 0 too, with a warning.
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return matthews_corrcoef(labels, predictions)


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return np.corrcoef(labels, predictions)[0, 1]


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": _f1,
    "macro-f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
}
