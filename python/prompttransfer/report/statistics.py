"""Paired differences between two methods, with confidence intervals.

Two methods on the same target and seed train and are scored on the same rows, so these rows do not affect their
difference. A pair is one (target, seed). Intervals are Student's t, at 95 %:

- per target: over the seeds, n - 1 degrees of freedom;
- mean over the targets, over seeds: for another draw of training rows on the same targets. The standard error comes
  from the spread of each target over its own seeds, the degrees of freedom from Welch and Satterthwaite. Every target
  draws its rows independently of the others. If each seed has its own P_init and sources (`retrain_sources`), targets
  with the same seed are not independent. Then each seed's differences are averaged over the targets, and these means
  are the sample;
- mean over the targets, over targets and seeds: for other targets of this kind. The sample is the targets' mean
  differences. For a balanced grid, this is the interval of the grand mean in a model with random targets and random
  seeds within them.

Means over targets only use scores on one scale (`prompttransfer.tasks.scales.averaged`). No interval is corrected for
the number of comparisons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy import stats

from prompttransfer.runs.rows import TargetRow
from prompttransfer.tasks.scales import Scale, averaged, mean_scale, scale_of


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % confidence interval. low and high are None if a sample has fewer than two values."""

    mean: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True)
class Comparison:
    """Comparison of a method with a baseline, in points of the score.

    Args:
        targets: interval over seeds, by target.
        metrics: metric, by target.
        averaged: targets in the means.
        over_seeds, over_targets: intervals of the mean over targets, see the module docstring. None if there are no
            targets to average. With retrained sources, over_seeds is also None if no seed has all targets.
        wins, ties, losses: numbers of pairs. For an error rate, the lower score wins.
    """

    method: str
    targets: dict[str, Interval]
    metrics: dict[str, str]
    averaged: tuple[str, ...]
    over_seeds: Interval | None
    over_targets: Interval | None
    wins: int
    ties: int
    losses: int

    @property
    def scale(self) -> Scale:
        """Scale of the means."""
        return mean_scale(self.metrics)

    def text(self, target: str) -> str:
        """The difference on a target as text; "-" if there are no pairs."""
        return interval_text(self.targets.get(target), scale_of(self.metrics.get(target, "")).digits)

    def mean_texts(self) -> list[str]:
        """Cells for the columns of `mean_heads`."""
        digits = self.scale.digits
        pairs = f"{self.wins}/{self.ties}/{self.losses}"
        return [interval_text(self.over_seeds, digits), interval_text(self.over_targets, digits), pairs]


def mean_heads(what: str) -> list[str]:
    """Headers of the columns with both intervals of a mean and the numbers of pairs."""
    return [f"{what}, 95 % CI over seeds", f"{what}, 95 % CI over targets and seeds", "won/tied/lost"]


def mean_interval(*samples: Sequence[float]) -> Interval:
    """Student's t interval of the mean of the means of independent samples.

    Standard error: sqrt(sum_t s_t^2 / n_t) / T. Degrees of freedom: Welch (1947) and Satterthwaite (1946); n - 1 for a
    single sample. count: number of all values.
    """
    mean, count = fmean(map(fmean, samples)), sum(map(len, samples))
    if any(len(values) < 2 for values in samples):
        return Interval(mean, None, None, count)
    parts = [variance(values) / len(values) for values in samples]
    if not any(parts):
        return Interval(mean, mean, mean, count)
    freedom = sum(parts) ** 2 / sum(part**2 / (len(values) - 1) for part, values in zip(parts, samples, strict=True))
    half = float(stats.t.ppf(0.975, freedom)) * sum(parts) ** 0.5 / len(samples)
    return Interval(mean, mean - half, mean + half, count)


def paired(
    rows: Sequence[TargetRow], method: str, baseline: str = "PT", *, retrained: bool = False
) -> Comparison | None:
    """Compare a method with a baseline over all pairs that both have finished; None if there are none.

    Args:
        retrained: whether each seed has its own P_init and sources.
    """
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
    metrics = {row.target: row.metric for row in rows if row.target in by_target}
    one_scale = averaged(metrics)
    samples = [by_target[target] for target in one_scale]
    if retrained and samples:
        seeds = dict.fromkeys(seed for _, seed in pairs)
        complete = [seed for seed in seeds if all((target, seed) in pairs for target in one_scale)]
        whole = [fmean(pairs[target, seed] for target in one_scale) for seed in complete]
        over_seeds = mean_interval(whole) if whole else None
    else:
        over_seeds = mean_interval(*samples) if samples else None
    gains = [-value if scale_of(metrics[target]).lower_is_better else value for (target, _), value in pairs.items()]
    return Comparison(
        method=method,
        targets={target: mean_interval(values) for target, values in by_target.items()},
        metrics=metrics,
        averaged=one_scale,
        over_seeds=over_seeds,
        over_targets=mean_interval(list(map(fmean, samples))) if samples else None,
        wins=sum(gain > 0 for gain in gains),
        ties=sum(gain == 0 for gain in gains),
        losses=sum(gain < 0 for gain in gains),
    )


def comparisons(rows: Sequence[TargetRow], baseline: str = "PT", *, retrained: bool = False) -> list[Comparison]:
    """Compare every other method with the baseline, in the order of the rows."""
    methods = dict.fromkeys(row.method for row in rows)
    compared = (paired(rows, method, baseline, retrained=retrained) for method in methods if method != baseline)
    return [comparison for comparison in compared if comparison]


def interval_text(interval: Interval | None, digits: int = 1) -> str:
    """Format an interval as "+3.2 [+0.4, +6.0]"; only the mean if there is no interval."""
    if interval is None:
        return "-"
    mean = f"{interval.mean:+.{digits}f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} [{interval.low:+.{digits}f}, {interval.high:+.{digits}f}]"
