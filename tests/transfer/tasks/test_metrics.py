"""Scores of choices against textbook formulas, scikit-learn and scipy; the honest columns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from prompttransfer.tasks.metrics import METRICS, collapsed, correlation, majority_score, score

BINARY = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(BINARY)
def test_two_class_metrics_are_the_textbook_formulas(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = map(list, zip(*pairs, strict=True))
    tp, tn = pairs.count((1, 1)), pairs.count((0, 0))
    fp, fn = pairs.count((0, 1)), pairs.count((1, 0))
    assert score("accuracy", labels, predictions) == pytest.approx(100 * (tp + tn) / len(pairs))
    f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
    assert score("f1", labels, predictions) == pytest.approx(100 * f1)
    root = ((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5
    matthews = (tp * tn - fp * fn) / root if root else 0.0
    assert score("matthews", labels, predictions) == pytest.approx(100 * matthews, abs=1e-9)


def test_macro_f1_is_the_mean_over_classes() -> None:
    labels, predictions = [0, 0, 1, 1, 2], [0, 1, 1, 1, 0]
    assert score("macro-f1", labels, predictions) == pytest.approx(100 * (0.5 + 0.8 + 0.0) / 3)


def test_macro_f1_of_three_classes_counts_those_that_do_not_occur() -> None:
    labels, predictions = [0, 0, 1, 1], [0, 1, 1, 1]
    expected = f1_score(labels, predictions, labels=[0, 1, 2], average="macro", zero_division=0)
    assert score("macro-f1-3", labels, predictions) == pytest.approx(100 * expected)
    assert score("macro-f1", labels, predictions) == pytest.approx(100 * expected * 3 / 2)
    assert score("macro-f1-3", [0, 1, 2], [0, -1, 2]) == pytest.approx(100 * 2 / 3)


def test_correlations_of_numbers_are_scipys() -> None:
    numbers, predictions = [0.0, 2.5, 5.0, 3.1], [0.4, 2.55, -1.0, 70.0]
    assert correlation("pearson", numbers, predictions) == pytest.approx(100 * pearsonr(numbers, predictions).statistic)
    assert correlation("spearman", numbers, predictions) == pytest.approx(
        100 * spearmanr(numbers, predictions).statistic
    )
    assert correlation("pearson", numbers, [-1.0] * 4) == 0.0


def test_pearson_is_scipys() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 40).tolist()
    predictions = [max(0, label + int(rng.integers(-1, 2))) for label in labels]
    assert score("pearson", labels, predictions) == pytest.approx(100 * pearsonr(labels, predictions).statistic)
    assert score("pearson", labels, [3] * 40) == 0.0


def test_spearman_is_scipys_with_mean_ranks_for_ties() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 60).tolist()
    predictions = [label // 2 + int(rng.integers(0, 2)) for label in labels]
    assert score("spearman", labels, predictions) == pytest.approx(100 * spearmanr(labels, predictions).statistic)
    # ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5
    assert score("spearman", [0, 2, 2, 3], [0, 1, 2, 3]) == pytest.approx(100 * 4.5 / (4.5 * 5) ** 0.5)
    assert score("spearman", labels, [3] * 60) == 0.0


MAYBE_NONE = st.lists(st.tuples(st.integers(0, 1), st.integers(-1, 1)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(MAYBE_NONE)
def test_of_two_classes_no_answer_is_the_wrong_one(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = map(list, zip(*pairs, strict=True))
    wrong = [1 - label if answer < 0 else answer for label, answer in pairs]
    right = sum(label == answer for label, answer in pairs)
    assert score("accuracy", labels, predictions) == pytest.approx(100 * right / len(pairs))
    assert score("f1", labels, predictions) == pytest.approx(100 * f1_score(labels, wrong, zero_division=0))
    if len(set(labels)) == len(set(wrong)) == 2:
        expected = 100 * matthews_corrcoef(labels, wrong)
        assert score("matthews", labels, predictions) == pytest.approx(expected, abs=1e-8)


def test_no_answer_costs_recall_and_is_no_class_of_its_own() -> None:
    # class 0: one of two found, nothing else called 0: 2/3; class 1: perfect
    assert score("macro-f1", [0, 0, 1], [0, -1, 1]) == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert score("macro-f1", [0, 1], [-1, -1]) == 0.0


def test_a_class_that_was_only_predicted_counts_in_macro_f1() -> None:
    labels, predictions = [0, 0, 1, 1], [0, 2, 1, 1]
    assert score("macro-f1", labels, predictions) == pytest.approx(
        100 * f1_score(labels, predictions, average="macro", zero_division=0)
    )


def test_among_three_classes_no_answer_is_a_column_of_its_own_for_matthews() -> None:
    labels, predictions = [0, 1, 2, 2, 1], [0, 1, -1, 2, 0]
    expected = 100 * matthews_corrcoef(labels, [0, 1, 3, 2, 0])
    assert score("matthews", labels, predictions) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_no_answer_stands_one_step_below_the_scale(metric: str) -> None:
    labels, predictions = [0, 3, 5, 2], [-1, 3, 4, 0]
    shifted = [label + 1 for label in predictions]
    assert score(metric, labels, predictions) == pytest.approx(score(metric, labels, shifted))


@pytest.mark.parametrize("metric", sorted(METRICS))
@settings(max_examples=30, deadline=None, derandomize=True)
@given(pairs=MAYBE_NONE, seed=st.integers(0, 99))
def test_scores_are_bounded_and_blind_to_the_order_of_rows(
    metric: str, pairs: list[tuple[int, int]], seed: int
) -> None:
    labels, predictions = map(list, zip(*pairs, strict=True))
    before = score(metric, labels, predictions)
    assert -100 <= before <= 100
    mixed = [pairs[index] for index in np.random.default_rng(seed).permutation(len(pairs))]
    assert score(metric, *map(list, zip(*mixed, strict=True))) == pytest.approx(before, abs=1e-7)
    if set(labels) == {0, 1}:
        best = 200 / 3 if metric == "macro-f1-3" else 100  # the third class is never right
        assert score(metric, labels, labels) == pytest.approx(best)


def test_majority_is_the_best_constant_answer() -> None:
    labels = [2, 0, 2, 1, 2, 0]
    constant = [score("accuracy", labels, [answer] * 6) for answer in range(3)]
    assert majority_score("accuracy", labels) == max(constant) == 50.0
    assert majority_score("matthews", labels) == 0.0
    # Of equally frequent classes the lowest one, whichever comes first.
    assert majority_score("f1", [1, 0]) == majority_score("f1", [0, 1]) == 0.0


def test_collapsed_starts_at_the_share() -> None:
    assert collapsed([1] * 98 + [0] * 2)
    assert not collapsed([1] * 97 + [0] * 3)
    assert not collapsed([])
    assert collapsed([-1] * 50)
    assert collapsed(["yes"] * 98 + ["no", "maybe"])
    assert not collapsed(["yes"] * 97 + ["no", "maybe", ""])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("acuracy", [0], [0]), "metric: got 'acuracy', want one of accuracy"),
        (("accuracy", [0, 1], [0]), "got 1 for 2 labels"),
        (("accuracy", [], []), "got no rows"),
        (("f1", [0, 2], [0, 1]), "use macro-f1"),
        (("accuracy", [0, -1], [0, 1]), "labels: got -1, want class indices from 0"),
        (("accuracy", [0, 1], [0, -2]), "predictions: got -2, want class indices from -1"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(*arguments)
