"""Paired differences between two methods, with confidence intervals.

Two methods on the same target and seed have seen the same rows and are scored on the same rows: their difference is
free of what both share. A pair is one (target, seed). Intervals are Student's t:

- per target: over the seeds, n - 1 degrees of freedom;
- mean over these targets: each seed's differences averaged over the targets, then over the seeds. It answers what
  another draw of training rows would give on the same targets;
- mean over targets like these: over the targets' mean differences. For a balanced grid this is the interval of the
  grand mean in a model with random targets and random seeds within them, so it holds both kinds of chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval; low and high are None where there are fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Comparison:
    """A method against a baseline, in points of the score.

    Args:
        targets: interval over seeds, by target.
        these_targets, such_targets: intervals of the mean over targets, see the head of this file. None for the first
            where no seed has all targets.
        wins, ties, losses: numbers of pairs.
    """

    method: str
    targets: dict[str, Interval]
    these_targets: Interval | None
    such_targets: Interval
    wins: int
    ties: int
    losses: int


def t_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent values and its Student's t interval.

    Raises:
        ValueError: no values.
    """
    if not len(values):
        raise ValueError("values: got none, want at least one")
    mean = fmean(values)
    if len(values) < 2:
        return Interval(mean, None, None, len(values))
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * float(stats.sem(np.asarray(values)))
    return Interval(mean, mean - half, mean + half, len(values))


def paired(
    rows: Sequence[dict[str, Any]], method: str, baseline: str = "PT", confidence: float = 0.95
) -> Comparison | None:
    """A method against a baseline over all pairs that both have finished; None when there is no pair.

    Args:
        rows: of results.json; method, target, seed and score are read.
    """
    scores = {(row["method"], row["target"], row["seed"]): row["score"] for row in rows}
    pairs = {
        (target, seed): score - scores[baseline, target, seed]
        for (name, target, seed), score in scores.items()
        if name == method and (baseline, target, seed) in scores
    }
    if not pairs:
        return None
    names = list(dict.fromkeys(target for target, _ in pairs))
    seeds = list(dict.fromkeys(seed for _, seed in pairs))
    targets = {
        target: t_interval([value for (other, _), value in pairs.items() if other == target], confidence)
        for target in names
    }
    whole = [fmean(pairs[t, seed] for t in names) for seed in seeds if all((t, seed) in pairs for t in names)]
    differences = list(pairs.values())
    return Comparison(
        method=method,
        targets=targets,
        these_targets=t_interval(whole, confidence) if whole else None,
        such_targets=t_interval([interval.mean for interval in targets.values()], confidence),
        wins=sum(value > 0 for value in differences),
        ties=sum(value == 0 for value in differences),
        losses=sum(value < 0 for value in differences),
    )


def comparisons(rows: Sequence[dict[str, Any]], baseline: str = "PT") -> list[Comparison]:
    """Every other method against the baseline, in the order of the rows."""
    methods = dict.fromkeys(row["method"] for row in rows)
    found = (paired(rows, method, baseline) for method in methods if method != baseline)
    return [comparison for comparison in found if comparison]


def interval_text(interval: Interval | None) -> str:
    """Such as "+3.2 [+0.4, +6.0]"; without an interval the mean alone."""
    if interval is None:
        return "-"
    if interval.low is None or interval.high is None:
        return f"{interval.mean:+.1f}"
    return f"{interval.mean:+.1f} [{interval.low:+.1f}, {interval.high:+.1f}]"


def difference_rows(rows: Sequence[dict[str, Any]], baseline: str = "PT") -> tuple[list[str], list[list[str]]]:
    """Differences to the baseline by target, their two means, and won/tied/lost pairs. Head and rows."""
    found = comparisons(rows, baseline)
    targets = list(dict.fromkeys(target for comparison in found for target in comparison.targets))
    head = ["method", *targets, "mean of these targets", "mean of such targets", "won/tied/lost"]
    lines = [
        [
            comparison.method,
            *(interval_text(comparison.targets.get(target)) for target in targets),
            interval_text(comparison.these_targets),
            interval_text(comparison.such_targets),
            f"{comparison.wins}/{comparison.ties}/{comparison.losses}",
        ]
        for comparison in found
    ]
    return head, lines
