"""Scores of choices in percent, the score of the majority class, and the mark of a collapsed prediction.

A prediction of -1 is an answer that was none of the choices. What it costs:

- accuracy: the row does not match.
- f1, and matthews of two classes: it counts as the wrong class. Among more classes matthews takes it as one more column
  of the confusion matrix.
- macro-f1: the recall of the true class, nothing else: it is no class of its own.
- pearson, spearman: it stands one step below the scale; where numbers are written (STS-B), it counts as the number -1.
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
        metric: accuracy, f1 (of class 1, two classes), macro-f1 (mean over the classes that occur), macro-f1-3 (over
            the classes 0, 1 and 2, whether they occur or not), matthews, pearson or spearman (equal values share the
            mean of their ranks).
        labels, predictions: class indices (pearson: their order is taken as the scale), equally long, not empty; a
            prediction may be -1, see above.

    Raises:
        ValueError: unknown metric, no rows, rows that do not match, or an index below these.
    """
    if metric not in METRICS:
        raise ValueError(f"metric: got {metric!r}, want one of {', '.join(METRICS)}")
    if len(labels) != len(predictions):
        raise ValueError(f"predictions: got {len(predictions)} for {len(labels)} labels, want one each")
    if not len(labels):
        raise ValueError("labels: got no rows, want at least one to score")
    true, given = np.asarray(labels), np.asarray(predictions)
    for name, values, least in (("labels", true, 0), ("predictions", given, -1)):
        if values.min() < least:
            raise ValueError(f"{name}: got {values.min()}, want class indices from {least} on")
    # Rounded far below one row of any test set: 54.5, not 54.50000000000001.
    return round(100.0 * float(METRICS[metric](true, given)), 9)


def correlation(metric: str, numbers: Sequence[float], predictions: Sequence[float]) -> float:
    """pearson or spearman of numbers, -100..100; what is constant has none, 0."""
    return round(100.0 * float(METRICS[metric](np.asarray(numbers), np.asarray(predictions))), 9)


def majority_score(metric: str, labels: Sequence[int]) -> float:
    """Score in percent of answering every row with its most frequent label (the lowest of equally frequent ones)."""
    counts = Counter(int(label) for label in labels)
    if not counts:
        raise ValueError("labels: got no rows, want at least one to score")
    most = max(sorted(counts), key=lambda label: counts[label])
    return score(metric, labels, [most] * len(labels))


def collapsed(predictions: Sequence[Hashable], share: float = 0.98) -> bool:
    """Whether one answer, a class, -1 or a text, is given to at least `share` of the rows."""
    counts = Counter(predictions)
    return bool(counts) and max(counts.values()) >= share * len(predictions)


def _none_is_wrong(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Of two classes, the wrong one in place of -1."""
    return np.where(predictions == -1, 1 - labels, predictions)


def _classes(labels: np.ndarray, predictions: np.ndarray) -> set[int]:
    return set(np.union1d(labels, predictions).tolist()) - {-1}


def _f1(labels: np.ndarray, predictions: np.ndarray) -> float:
    classes = _classes(labels, predictions)
    if not classes <= {0, 1}:
        raise ValueError(f"metric 'f1' wants classes 0 and 1, got {sorted(classes)}; use macro-f1")
    return f1_score(labels, _none_is_wrong(labels, predictions), zero_division=0)


def _macro_f1(labels: np.ndarray, predictions: np.ndarray, classes: Sequence[int] = ()) -> float:
    classes = classes or sorted(_classes(labels, predictions))
    return f1_score(labels, predictions, labels=classes, average="macro", zero_division=0)


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    if _classes(labels, predictions) <= {0, 1}:
        predictions = _none_is_wrong(labels, predictions)
    # A constant has no correlation; scikit-learn scores it 0 too, with a warning.
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
