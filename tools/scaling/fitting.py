"""Constants of the machine from measured points: non-negative least squares of the relative error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from scipy.optimize import nnls

Terms = Mapping[str, float]


def fit(terms: Sequence[Terms], measured: Sequence[float]) -> dict[str, float]:
    """Constants c >= 0 for which the sums over names of c * term fit the measured values, by relative least squares."""
    names = list(terms[0])
    rows = np.array([[term[name] for name in names] for term in terms]) / np.array(measured)[:, None]
    size = np.abs(rows).max(axis=0)
    size[size == 0] = 1  # terms that no point has
    constants, _ = nnls(rows / size, np.ones(len(rows)))
    return dict(zip(names, (constants / size).tolist(), strict=True))


def predict(constants: Mapping[str, float], terms: Terms) -> float:
    return sum(constants[name] * value for name, value in terms.items())


def errors(constants: Mapping[str, float], terms: Sequence[Terms], measured: Sequence[float]) -> dict[str, float]:
    """Absolute relative errors: their median, their maximum, and the number of points."""
    relative = [abs(predict(constants, term) / value - 1) for term, value in zip(terms, measured, strict=True)]
    return {"points": len(relative), "median": median(relative), "largest": max(relative)}
