"""Metrics of short answers. The score of a row is its best match with any reference."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

References = Sequence[Sequence[str]]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(references: References, predictions: Sequence[str]) -> float:
    """Per cent of predictions that equal a reference, ignoring outer white space."""
    return _best(references, predictions, lambda answer, prediction: answer.strip() == prediction.strip())


def squad_em(references: References, predictions: Sequence[str]) -> float:
    """Per cent of predictions that equal a reference after both are normalised; see `normalise`."""
    return _best(references, predictions, lambda answer, prediction: normalise(answer) == normalise(prediction))


def squad_f1(references: References, predictions: Sequence[str]) -> float:
    """Mean F1 of normalised words in per cent, as in the official evaluation of SQuAD 2.0.

    A word that occurs k times on one side matches at most k times on the other. If one side has no words, the score is
    1 if the other has none either, else 0.
    """
    return _best(references, predictions, _word_f1)


def normalise(text: str) -> str:
    """Normalise as the official SQuAD evaluation: lower case, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _word_f1(answer: str, prediction: str) -> float:
    wanted, predicted = normalise(answer).split(), normalise(prediction).split()
    if not wanted or not predicted:
        return float(wanted == predicted)
    return 2 * sum((Counter(wanted) & Counter(predicted)).values()) / (len(wanted) + len(predicted))


def _best(references: References, predictions: Sequence[str], match: Callable[[str, str], float]) -> float:
    """Mean over rows of the best match with a reference, in per cent."""
    best = [
        max(match(answer, prediction) for answer in row)
        for row, prediction in zip(references, predictions, strict=True)
    ]
    return 100 * sum(best) / len(best)
