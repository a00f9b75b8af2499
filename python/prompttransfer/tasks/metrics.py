"""Scores of choices in percent, the score of the majority class, and a check for collapsed predictions.

A prediction of -1 is an answer that is none of the choices. Its effect:

- accuracy: the row does not match.
- f1, and matthews with two classes: it counts as the wrong class. With more classes, matthews treats it as one more
  column of the confusion matrix.
- macro-f1: it lowers the recall of the true class only; it is not a class of its own.
- pearson, spearman: it is one step below the scale. If the answers are numbers (STS-B), it is the number -1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


def score(metric: str, labels: Sequence[int], predictions: Sequence[int]) -> float:
    """Score of predictions in percent (correlations: -100..100).

    Args:
        metric: accuracy, f1 (of class 1 out of two), macro-f1 (mean over the classes that occur), macro-f1-3 (mean over
            classes 0, 1 and 2, whether they occur or not), matthews, pearson or spearman (ties get their mean rank).
        labels, predictions: class indices of equal number, not empty. pearson uses the indices as the scale. A
            prediction may be -1, see above.

    Raises:
        ValueError: the metric is unknown, there are no rows, their numbers differ, or an index is too small.
    """
    if metric not in METRICS:
        raise ValueError(f"metric: got {metric!r}, want one of {', '.join(METRICS)}")
    if len(labels) != len(predictions):
        raise ValueError(f"predictions: got {len(predictions)} for {len(labels)} labels, want one each")
    if not len(labels):
        raise ValueError("labels: got no rows, want at least one to score")
    true, predicted = np.asarray(labels), np.asarray(predictions)
    for name, values, least in (("labels", true, 0), ("predictions", predicted, -1)):
        if values.min() < least:
            raise ValueError(f"{name}: got {values.min()}, want class indices from {least} on")
    # Rounded far below the effect of one row of any test set: 54.5, not 54.50000000000001.
    return round(100.0 * float(METRICS[metric](true, predicted)), 9)


def correlation(metric: str, numbers: Sequence[float], predictions: Sequence[float]) -> float:
    """pearson or spearman correlation of numbers, -100..100; 0 if either side is constant."""
    return round(100.0 * float(METRICS[metric](np.asarray(numbers), np.asarray(predictions))), 9)


def majority_score(metric: str, labels: Sequence[int]) -> float:
    """Score in percent of giving every row the most frequent label (the lowest one on a tie)."""
    counts = Counter(int(label) for label in labels)
    if not counts:
        raise ValueError("labels: got no rows, want at least one to score")
    most = max(sorted(counts), key=lambda label: counts[label])
    return score(metric, labels, [most] * len(labels))


def collapsed(predictions: Sequence[Hashable], share: float = 0.98) -> bool:
    """Whether at least a fraction `share` of the rows has the same answer (a class, -1 or a text)."""
    counts = Counter(predictions)
    return bool(counts) and max(counts.values()) >= share * len(predictions)


def _none_is_wrong(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Replace -1 by the wrong one of two classes."""
    return np.where(predictions == -1, 1 - labels, predictions)


def _classes(labels: np.ndarray, predictions: np.ndarray) -> set[int]:
    return set(np.union1d(labels, predictions).tolist()) - {-1}


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    classes = _classes(labels, predictions)
    if not classes <= {0, 1}:
        raise ValueError(f"metric 'f1' needs classes 0 and 1, got {sorted(classes)}; use macro-f1")
    return f1_score(labels, _none_is_wrong(labels, predictions), zero_division=0)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[int] = ()) -> float:
    classes = classes or sorted(_classes(labels, predictions))
    return f1_score(labels, predictions, labels=classes, average="macro", zero_division=0)


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    if _classes(labels, predictions) <= {0, 1}:
        predictions = _none_is_wrong(labels, predictions)
    # A constant has no correlation. scikit-learn returns 0 too, but warns.
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return matthews_corrcoef(labels, predictions)


def _pearson(labels: np.ndarray, predictions: np.ndarray) -> float:
    if np.ptp(labels) == 0 or np.ptp(predictions) == 0:
        return 0.0
    return np.corrcoef(labels, predictions)[0, 1]


def _spearman(labels: np.ndarray, predictions: np.ndarray) -> float:
    return _pearson(rankdata(labels), rankdata(predictions))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": accuracy_score,
    "f1": _f1,
    "macro-f1": _macro_f1,
    "macro-f1-3": partial(_macro_f1, classes=(0, 1, 2)),
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
