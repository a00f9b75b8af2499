"""Paired differences between two methods, with confidence intervals.

Two methods on the same target and seed have seen the same rows and are scored on the same rows: their difference is
free of what both share. A pair is one (target, seed). Intervals are Student's t:

- per target: over the seeds, n - 1 degrees of freedom;
- mean over these targets: of the targets' means, with the standard error from the spread of each target over its own
  seeds, and degrees of freedom by Welch and Satterthwaite. It answers what another draw of training rows would give on
  the same targets. Every target draws rows of its own, independent of the others. Where P_init and sources are new for
  each seed (`retrain_sources`), a seed ties the targets together: there each seed's differences are averaged over the
  targets, and these means are the sample;
- mean over targets like these: over the targets' mean differences. For a balanced grid this is the interval of the
  grand mean in a model with random targets and random seeds within them, so it holds both kinds of chance.

Means over targets are of scores on one scale alone (`prompttransfer.tasks.scales.averaged`). No interval is corrected
for the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from scipy import stats

from prompttransfer.runs.rows import TargetRow
from prompttransfer.tasks.scales import averaged, scale_of


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
        averaged: the targets that the means are of.
        these_targets, such_targets: intervals of the mean over targets, see the head of this file. None where no target
            has a mean; of retrained sources, for the first also where no seed has all targets.
        wins, ties, losses: numbers of pairs; of an error rate, the lower one wins.
    """

    method: str
    targets: dict[str, Interval]
    averaged: tuple[str, ...]
    these_targets: Interval | None
    such_targets: Interval | None
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


def stratified_interval(strata: Sequence[Sequence[float]], confidence: float = 0.95) -> Interval:
    """Interval of the mean of the strata's means, each a sample of its own.

    Standard error: sqrt(sum_t s_t^2 / n_t) / T; degrees of freedom: Welch (1947), Satterthwaite (1946). Without low and
    high where a stratum has fewer than two values; count is the number of all values.
    """
    mean, count = fmean(fmean(values) for values in strata), sum(map(len, strata))
    if any(len(values) < 2 for values in strata):
        return Interval(mean, None, None, count)
    parts = [float(np.var(values, ddof=1)) / len(values) for values in strata]
    error = sum(parts) ** 0.5 / len(strata)
    if not error:
        return Interval(mean, mean, mean, count)
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, strata, strict=True))
    half = stats.t.ppf((1 + confidence) / 2, freedom) * error
    return Interval(mean, mean - half, mean + half, count)


def paired(
    rows: Sequence[TargetRow],
    method: str,
    baseline: str = "PT",
    confidence: float = 0.95,
    *,
    retrained: bool = False,
) -> Comparison | None:
    """A method against a baseline over all pairs that both have finished; None when there is no pair.

    Args:
        retrained: P_init and sources are new for each seed.
    """
    metrics = {row.target: row.metric for row in rows}
    scores = {(row.method, row.target, row.seed): row.score for row in rows}
    pairs = {
        (target, seed): score - scores[baseline, target, seed]
        for (name, target, seed), score in scores.items()
        if name == method and (baseline, target, seed) in scores
    }
    if not pairs:
        return None
    by_target: dict[str, list[float]] = {}
    for (target, _), value in pairs.items():
        by_target.setdefault(target, []).append(value)
    targets = {target: t_interval(values, confidence) for target, values in by_target.items()}
    one_scale = averaged({name: metrics[name] for name in by_target})
    if retrained:
        seeds = dict.fromkeys(seed for _, seed in pairs)
        complete = [seed for seed in seeds if one_scale and all((target, seed) in pairs for target in one_scale)]
        whole = [fmean(pairs[target, seed] for target in one_scale) for seed in complete]
        these_targets = t_interval(whole, confidence) if whole else None
    else:
        these_targets = stratified_interval([by_target[name] for name in one_scale], confidence) if one_scale else None
    means = [targets[name].mean for name in one_scale]
    gains = [-value if scale_of(metrics[target]).lower_is_better else value for (target, _), value in pairs.items()]
    return Comparison(
        method=method,
        targets=targets,
        averaged=one_scale,
        these_targets=these_targets,
        such_targets=t_interval(means, confidence) if means else None,
        wins=sum(gain > 0 for gain in gains),
        ties=sum(gain == 0 for gain in gains),
        losses=sum(gain < 0 for gain in gains),
    )


def comparisons(rows: Sequence[TargetRow], baseline: str = "PT", *, retrained: bool = False) -> list[Comparison]:
    """Every other method against the baseline, in the order of the rows."""
    methods = dict.fromkeys(row.method for row in rows)
    found = (paired(rows, method, baseline, retrained=retrained) for method in methods if method != baseline)
    return [comparison for comparison in found if comparison]


def interval_text(interval: Interval | None, digits: int = 1) -> str:
    """Such as "+3.2 [+0.4, +6.0]"; without an interval the mean alone."""
    if interval is None:
        return "-"
    mean = f"{interval.mean:+.{digits}f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"


def difference_rows(
    rows: Sequence[TargetRow], baseline: str = "PT", *, retrained: bool = False
) -> tuple[list[str], list[list[str]]]:
    """Differences to the baseline by target, their two means, and won/tied/lost pairs; turned, a line for every target,
    where there are more targets than methods. Head and rows."""
    found = comparisons(rows, baseline, retrained=retrained)
    metrics = {row.target: row.metric for row in rows}
    targets = [target for target in metrics if any(target in comparison.targets for comparison in found)]
    grid = [["method", *targets, "mean of these targets", "mean of such targets", "won/tied/lost"]]
    for comparison in found:
        digits = {target: scale_of(metrics[target]).digits for target in targets}
        of_mean = digits[comparison.averaged[0]] if comparison.averaged else 1
        grid.append(
            [
                comparison.method,
                *(interval_text(comparison.targets.get(target), digits[target]) for target in targets),
                interval_text(comparison.these_targets, of_mean),
                interval_text(comparison.such_targets, of_mean),
                f"{comparison.wins}/{comparison.ties}/{comparison.losses}",
            ]
        )
    if found and len(targets) > max(6, len(found)):
        grid = [list(line) for line in zip(*grid, strict=True)]
        grid[0][0] = "target"
    return grid[0], grid[1:]
