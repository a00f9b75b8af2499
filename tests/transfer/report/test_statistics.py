"""Paired differences and their intervals, against scipy's tests and numbers written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from synthetic_run import target_facts

from prompttransfer.report.statistics import Interval, comparisons, interval_text, mean_interval, paired
from prompttransfer.report.tables import difference_rows
from prompttransfer.runs.rows import TargetRow


def rows_of(scores: dict[tuple[str, str], list[float]], **metrics: str) -> list[TargetRow]:
    return [
        TargetRow(**target_facts(method, target, seed, score, metric=metrics.get(target, "accuracy")))
        for (method, target), values in scores.items()
        for seed, score in enumerate(values)
    ]


def drawn(seed: int, targets: int = 4, seeds: int = 5) -> list[TargetRow]:
    rng = np.random.default_rng(seed)
    return rows_of({(m, f"t{t}"): rng.normal(70, 8, seeds).tolist() for m in ("PT", "MPT") for t in range(targets)})


def scores(rows: list[TargetRow], method: str, target: str) -> list[float]:
    return [row.score for row in rows if (row.method, row.target) == (method, target)]


def test_interval_is_that_of_the_t_test() -> None:
    values = [3.0, -1.0, 2.5, 7.0]
    wanted = stats.ttest_1samp(values, 0.0).confidence_interval()
    interval = mean_interval(values)
    assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high)) and interval.mean == 2.875
    # Two values 1 and 3: mean 2, standard error 1, t(0.975, 1) = 12.7062.
    two = mean_interval([1.0, 3.0])
    assert (two.low, two.high) == pytest.approx((-10.7062, 14.7062), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_targets_are_paired_t_tests_over_seeds(seed: int) -> None:
    rows = drawn(seed)
    comparison = paired(rows, "MPT")
    assert comparison
    for target, interval in comparison.targets.items():
        wanted = stats.ttest_rel(scores(rows, "MPT", target), scores(rows, "PT", target)).confidence_interval()
        assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high))


def test_means_over_targets_take_seeds_or_targets_as_the_sample() -> None:
    rows = drawn(7)
    comparison = paired(rows, "MPT", retrained=True)
    assert comparison and comparison.over_seeds
    grid = np.array([np.subtract(scores(rows, "MPT", f"t{t}"), scores(rows, "PT", f"t{t}")) for t in range(4)])
    for interval, sample in ((comparison.over_seeds, grid.mean(axis=0)), (comparison.over_targets, grid.mean(axis=1))):
        wanted = stats.ttest_1samp(sample, 0.0).confidence_interval()
        assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high))
        assert interval.mean == pytest.approx(grid.mean()) and interval.count == len(sample)
    counts = (int((grid > 0).sum()), int((grid == 0).sum()), int((grid < 0).sum()))
    assert (comparison.wins, comparison.ties, comparison.losses) == counts


def test_two_strata_are_welch_s_test() -> None:
    """The mean of two strata is half the difference of one and the other with its sign turned."""
    first, second = [3.0, -1.0, 2.5, 7.0], [1.0, 1.5, 0.5]
    wanted = stats.ttest_ind(first, [-value for value in second], equal_var=False).confidence_interval()
    interval = mean_interval(first, second)
    assert (interval.low, interval.high) == pytest.approx((wanted.low / 2, wanted.high / 2)) and interval.count == 7
    assert mean_interval(first, [1.0]).low is None
    assert mean_interval([2.0, 2.0], [4.0, 4.0]) == Interval(3.0, 3.0, 3.0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [(3, 3, 0), (1, 4, 2)])
def test_interval_over_seeds_covers_as_often_as_it_says(spread: tuple[float, ...]) -> None:
    """Fixed targets, three random seeds: at least 95 % of the intervals contain the true mean."""
    rng, runs, hits = np.random.default_rng(1), 1000, 0
    for _ in range(runs):
        values = {("PT", f"t{t}"): [0.0, 0.0, 0.0] for t in range(3)}
        values |= {("MPT", f"t{t}"): (t + rng.normal(0, s, 3)).tolist() for t, s in enumerate(spread)}
        comparison = paired(rows_of(values), "MPT")
        assert comparison and comparison.over_seeds
        hits += comparison.over_seeds.low <= 1 <= comparison.over_seeds.high
    assert stats.binomtest(hits, runs, 0.95, alternative="less").pvalue > 1e-3


@pytest.mark.slow
def test_interval_over_targets_covers_as_often_as_it_says() -> None:
    """Random targets and random seeds within them: 95 % of the intervals contain the true mean, 2."""
    rng, runs, hits = np.random.default_rng(0), 1000, 0
    for _ in range(runs):
        shift = 2 + rng.normal(0, 3, 5)
        values = {("PT", f"t{t}"): [0.0, 0.0, 0.0] for t in range(5)}
        values |= {("MPT", f"t{t}"): (shift[t] + rng.normal(0, 4, 3)).tolist() for t in range(5)}
        comparison = paired(rows_of(values), "MPT")
        assert comparison and comparison.over_targets
        hits += comparison.over_targets.low <= 2 <= comparison.over_targets.high
    assert stats.binomtest(hits, runs, 0.95).pvalue > 1e-3


def test_only_pairs_that_both_have_count() -> None:
    rows = rows_of({("PT", "a"): [60, 70], ("PT", "b"): [50], ("DTVG", "a"): [61, 70, 90], ("DTVG", "b"): [40, 80]})
    comparison = paired(rows, "DTVG")
    assert comparison and (comparison.wins, comparison.ties, comparison.losses) == (1, 1, 1)
    assert (
        comparison.targets["a"].mean == 0.5
        and comparison.targets["b"].low is None
        and comparison.targets["b"].mean == -10
    )
    assert comparison.over_seeds and comparison.over_seeds.count == 3 and comparison.over_seeds.mean == -4.75
    tied = paired(rows, "DTVG", retrained=True)
    assert tied and tied.over_seeds and tied.over_seeds.count == 1 and tied.over_seeds.mean == -4.5
    assert paired(rows, "SPoT") is None and comparisons(rows, "none") == []
    assert paired([row for row in rows if row.method != "PT"], "DTVG") is None


def test_rows_of_the_table() -> None:
    rows = rows_of({("PT", "a"): [60, 62], ("SPoT", "a"): [64, 68]})
    head, lines = difference_rows(comparisons(rows))
    assert head == ["method", "a", "mean, 95 % CI over seeds", "mean, 95 % CI over targets and seeds", "won/tied/lost"]
    assert lines == [["SPoT", "+5.0 [-7.7, +17.7]", "+5.0 [-7.7, +17.7]", "+5.0", "2/0/0"]]
    assert interval_text(None) == "-"


def test_scores_on_other_scales_are_not_averaged() -> None:
    values = {("PT", "a"): [60.0, 62.0], ("PT", "b"): [0.40, 0.42], ("PT", "c"): [70.0, 70.0]}
    values |= {("MPT", "a"): [64.0, 68.0], ("MPT", "b"): [0.45, 0.45], ("MPT", "c"): [65.0, 71.0]}
    comparison = paired(rows_of(values, b="meteor", c="ter"), "MPT")
    assert comparison and comparison.averaged == ("a",) and comparison.over_targets and comparison.over_seeds
    assert comparison.over_targets.mean == 5.0 and comparison.over_seeds.mean == 5.0
    assert comparison.targets["b"].mean == pytest.approx(0.04) and comparison.targets["c"].mean == -2.0
    # For an error rate, the lower one wins.
    assert (comparison.wins, comparison.ties, comparison.losses) == (5, 0, 1)
    _, ((_, _, of_b, of_c, *means),) = difference_rows(comparisons(rows_of(values, b="meteor", c="ter")))
    assert (
        of_b.startswith("+0.040 [-0.087, ")
        and of_c.startswith("-2.0 [")
        and means[:2]
        == [
            "+5.0 [-7.7, +17.7]",
            "+5.0",
        ]
    )
    # Several metrics are averaged if they are in per cent, and a single metric on any scale.
    other = paired(rows_of(values, b="f1", c="matthews"), "MPT")
    assert other and other.averaged == ("a", "b", "c")
    errors = {key: value for key, value in values.items() if key[1] != "a"}
    only = paired(rows_of(errors, b="ter", c="ter"), "MPT")
    assert only and only.averaged == ("b", "c")
    mixed = paired(rows_of(errors, b="meteor", c="ter"), "MPT")
    assert mixed and mixed.averaged == () and mixed.over_seeds is None and mixed.over_targets is None


def test_of_an_error_rate_the_lower_one_wins() -> None:
    rows = rows_of({("PT", "a"): [70.0, 60.0, 50.0], ("MPT", "a"): [65.0, 55.0, 50.0]}, a="ter")
    comparison = paired(rows, "MPT")
    assert comparison and (comparison.wins, comparison.ties, comparison.losses) == (2, 1, 0)


def test_many_targets_stand_below_each_other() -> None:
    values = {(method, f"t{t}"): [60.0 + t] for method in ("PT", "MPT") for t in range(9)}
    head, lines = difference_rows(comparisons(rows_of(values)))
    assert head == ["target", "MPT"] and lines[0] == ["t0", "+0.0"] and len(lines) == 9 + 3
    assert lines[-1] == ["won/tied/lost", "0/9/0"]
