"""On which scale a metric is printed, which way is better, and which scores may be averaged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How scores of a metric are printed.

    Attributes:
        top: the best value, or of an error rate a usual worst one; None: open.
        lower_is_better: an error rate.
        digits: after the point.
    """

    top: float | None = 100.0
    lower_is_better: bool = False
    digits: int = 1

    def text(self, value: float) -> str:
        """Such as "87.5", "0.412"."""
        return f"{value:.{self.digits}f}"


PERCENT = Scale()
# All others are in per cent, more is better.
SCALES = {
    "ter": Scale(lower_is_better=True),
    "nist": Scale(top=None, digits=2),
    "meteor": Scale(top=1.0, digits=3),
    "cider": Scale(top=10.0, digits=2),
}


def scale_of(metric: str) -> Scale:
    """The scale of a metric; per cent for one that is not known."""
    return SCALES.get(metric, PERCENT)


def averaged(metrics: Mapping[str, str]) -> tuple[str, ...]:
    """The tasks whose scores have a mean: all where they share one metric, else those in per cent, more being better.

    Args:
        metrics: metric by task.
    """
    if len(set(metrics.values())) <= 1:
        return tuple(metrics)
    return tuple(task for task, metric in metrics.items() if scale_of(metric) == PERCENT)


def mean_scale(metrics: Mapping[str, str]) -> Scale:
    """The scale of the mean over the tasks that have one (`averaged`); per cent where there is none."""
    return scale_of(next((metrics[task] for task in averaged(metrics)), ""))
