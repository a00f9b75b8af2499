"""Metrics of short answers: a row scores by the reference that suits its prediction best."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

References = Sequence[Sequence[str]]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def exact_match(references: References, predictions: Sequence[str]) -> float:
    """Per cent of predictions that equal a reference, blanks at both ends aside."""
    return _best(references, predictions, lambda answer, given: answer.strip() == given.strip())


def squad_em(references: References, predictions: Sequence[str]) -> float:
    """Per cent of predictions that equal a reference when both are normalised; see `normalise`."""
    return _best(references, predictions, lambda answer, given: normalise(answer) == normalise(given))


def squad_f1(references: References, predictions: Sequence[str]) -> float:
    """Mean F1 of normalised words in per cent, as the official evaluation of SQuAD 2.0 counts it.

    A word that stands k times on one side matches at most k times on the other. Where one side has no words, they score
    1 if the other has none either.
    """
    return _best(references, predictions, _word_f1)


def normalise(text: str) -> str:
    """As the official SQuAD evaluation does it: lower case, no ASCII punctuation, no articles, single blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _word_f1(answer: str, given: str) -> float:
    wanted, found = normalise(answer).split(), normalise(given).split()
    if not wanted or not found:
        return float(wanted == found)
    return 2 * sum((Counter(wanted) & Counter(found)).values()) / (len(wanted) + len(found))


def _best(references: References, predictions: Sequence[str], match: Callable[[str, str], float]) -> float:
    """Mean over rows of the best match with a reference, in per cent."""
    best = [max(match(answer, given) for answer in row) for row, given in zip(references, predictions, strict=True)]
    return 100 * sum(best) / len(best)
