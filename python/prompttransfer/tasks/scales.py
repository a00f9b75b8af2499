"""The scale of each metric, which direction is better, and which scores may be averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How to print the scores of a metric.

    Attributes:
        top: best value, or a typical worst value of an error rate; None: unbounded.
        lower_is_better: whether the metric is an error rate.
        digits: digits after the decimal point.
    """

    top: float | None = 100.0
    lower_is_better: bool = False
    digits: int = 1

    def text(self, value: float) -> str:
        """Format a score, such as "87.5" or "0.412"."""
        return f"{value:.{self.digits}f}"


PERCENT = Scale()
# All other metrics are in per cent, and higher is better.
SCALES = {
    "ter": Scale(lower_is_better=True),
    "nist": Scale(top=None, digits=2),
    "meteor": Scale(top=1.0, digits=3),
    "cider": Scale(top=10.0, digits=2),
}


def scale_of(metric: str) -> Scale:
    """The scale of a metric; per cent if the metric is unknown."""
    return SCALES.get(metric, PERCENT)


def averaged(metrics: Mapping[str, str]) -> tuple[str, ...]:
    """Tasks whose scores may be averaged: all if they share one metric, else those in per cent with higher better."""
    if len(set(metrics.values())) <= 1:
        return tuple(metrics)
    return tuple(task for task, metric in metrics.items() if scale_of(metric) == PERCENT)


def mean_scale(metrics: Mapping[str, str]) -> Scale:
    """The scale of the mean over the tasks that may be averaged (`averaged`); per cent if there are none."""
    return scale_of(next((metrics[task] for task in averaged(metrics)), ""))
