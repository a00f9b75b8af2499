"""Scores of free-text answers against all answers that count as right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

from prompttransfer.tasks.text_metrics.answers import References, exact_match, squad_em, squad_f1
from prompttransfer.tasks.text_metrics.cider import cider
from prompttransfer.tasks.text_metrics.libraries import bleu, has_wordnet, meteor, rouge, ter
from prompttransfer.tasks.text_metrics.nist import nist


@dataclass(frozen=True)
class TextMetric:
    """A score of references and predictions, and the modules it imports from the extra "generation"."""

    score: Callable[[References, Sequence[str]], float]
    packages: tuple[str, ...] = ()


TEXT_METRICS: dict[str, TextMetric] = {
    "exact-match": TextMetric(exact_match),
    "squad-f1": TextMetric(squad_f1),
    "squad-em": TextMetric(squad_em),
    "bleu": TextMetric(bleu, ("sacrebleu",)),
    "nist": TextMetric(nist, ("sacrebleu",)),
    "meteor": TextMetric(meteor, ("sacrebleu", "nltk")),
    "rouge-1": TextMetric(partial(rouge, "rouge1"), ("rouge_score",)),
    "rouge-2": TextMetric(partial(rouge, "rouge2"), ("rouge_score",)),
    "rouge-l": TextMetric(partial(rouge, "rougeL"), ("rouge_score",)),
    "cider": TextMetric(cider, ("sacrebleu",)),
    "ter": TextMetric(ter, ("sacrebleu",)),
}


def text_score(metric: str, references: References, predictions: Sequence[str]) -> float:
    """Score of predicted strings, on the scale that papers print.

    Args:
        metric: a name in TEXT_METRICS. Per cent, except for nist (at least 0, unbounded), meteor (0..1) and cider
            (0..10). ter is an error rate: 0 is best, and it can exceed 100.
        references: for every row, the answers that count as right, at least one.
        predictions: one string for every row.

    Raises:
        ValueError: the metric is unknown, there are no rows, or their numbers differ.
        ImportError: a package or data that the metric needs is not installed.
    """
    require(metric)
    if len(references) != len(predictions):
        raise ValueError(f"predictions: got {len(predictions)} for {len(references)} rows, want one each")
    _check_references(references)
    return round(float(TEXT_METRICS[metric].score(references, predictions)), 9)


def majority_text_score(metric: str, references: References) -> float:
    """Score of giving every row the answer that is right for most rows (the alphabetically first on a tie)."""
    _check_references(references)
    counts = Counter(answer for row in references for answer in set(row))
    most = max(sorted(counts), key=lambda answer: counts[answer])
    return text_score(metric, references, [most] * len(references))


class Lack(NamedTuple):
    """what: explains what is missing; command: installs it."""

    what: str
    command: str

    def __str__(self) -> str:
        return f"{self.what}: {self.command}"


def missing(metric: str) -> Lack | None:
    """Missing requirement of a metric, or None. Raises ValueError for an unknown metric."""
    if metric not in TEXT_METRICS:
        raise ValueError(f"metric: got {metric!r}, want one of {', '.join(TEXT_METRICS)}")
    absent = [package for package in TEXT_METRICS[metric].packages if find_spec(package) is None]
    if absent:
        return Lack(f"metric {metric!r} needs {' and '.join(absent)}", 'pip install "promptkernels[generation]"')
    if metric == "meteor" and not has_wordnet():
        what = "metric 'meteor' matches synonyms with WordNet, which nltk does not find"
        return Lack(what, "python -m nltk.downloader wordnet")
    return None


def require(metric: str) -> None:
    """Raise an ImportError if a requirement of a metric is missing, so that it comes before a training."""
    lack = missing(metric)
    if lack:
        raise ImportError(str(lack))


def _check_references(references: References) -> None:
    if not len(references) or not all(len(row) for row in references):
        raise ValueError("references: want at least one row, and at least one right answer for every row")
