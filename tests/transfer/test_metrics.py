"""Metrics against scikit-learn-free formulas, and the honest columns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr

from prompttransfer.tasks.metrics import collapsed, majority_score, score

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


def test_pearson_is_scipys() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 40).tolist()
    predictions = [max(0, label + int(rng.integers(-1, 2))) for label in labels]
    assert score("pearson", labels, predictions) == pytest.approx(100 * pearsonr(labels, predictions).statistic)
    assert score("pearson", labels, [3] * 40) == 0.0


def test_majority_is_the_best_constant_answer() -> None:
    labels = [2, 0, 2, 1, 2, 0]
    constant = [score("accuracy", labels, [answer] * 6) for answer in range(3)]
    assert majority_score("accuracy", labels) == max(constant) == 50.0
    assert majority_score("matthews", labels) == 0.0


def test_collapsed_starts_at_the_share() -> None:
    assert collapsed([1] * 98 + [0] * 2)
    assert not collapsed([1] * 97 + [0] * 3)
    assert not collapsed([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("acuracy", [0], [0]), "metric: got 'acuracy', want one of accuracy"),
        (("accuracy", [0, 1], [0]), "got 1 for 2 labels"),
        (("accuracy", [], []), "got no rows"),
        (("f1", [0, 2], [0, 1]), "use macro-f1"),
    ],
)
def test_bad_input_is_named(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(*arguments)
