"""CIDEr-D: similarity of a prediction to its references, weighted towards words that few other rows have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prompttransfer.tasks.text_metrics.answers import References
from prompttransfer.tasks.text_metrics.tokens import Gram, ngrams, words

_LONGEST = 4
_SIGMA = 6.0


@dataclass(frozen=True)
class _Sentence:
    """length: number of words; vectors, norms: tf-idf of the n-grams of each size."""

    length: int
    vectors: list[dict[Gram, float]]
    norms: list[float]


def cider(references: References, predictions: Sequence[str]) -> float:
    """Mean CIDEr-D over rows, 0..10 (Vedantam et al. 2015, equation 4), with the choices of the authors' code.

    For each size n up to four: cosine of the tf-idf vectors, with the prediction's entries clipped to the reference's,
    times exp(-(difference in words)^2 / (2 * 6^2)). The result is the mean over sizes and references, times 10. Term
    frequencies are counts. The document frequency of an n-gram is the number of rows with a reference that has it, at
    least 1. So an n-gram in all rows has weight 0, and a single row scores 0. Lower case, tokens of mteval-v13a without
    punctuation; papers use the Penn Treebank tokenizer of CoreNLP.
    """
    rows = [[words(answer) for answer in row] for row in references]
    sizes = range(1, _LONGEST + 1)
    frequency: Counter[Gram] = Counter()
    for row in rows:
        frequency.update({gram for answer in row for size in sizes for gram in ngrams(answer, size)})

    def sentence(tokens: list[str]) -> _Sentence:
        vectors = [
            {
                gram: count * math.log(len(rows) / max(1, frequency[gram]))
                for gram, count in ngrams(tokens, size).items()
            }
            for size in sizes
        ]
        return _Sentence(len(tokens), vectors, [math.hypot(*vector.values()) for vector in vectors])

    scores = []
    for row, prediction in zip(rows, predictions, strict=True):
        predicted = sentence(words(prediction))
        scores.append(sum(_similarity(predicted, sentence(answer)) for answer in row) / len(row))
    return 10 * sum(scores) / len(scores)


def _similarity(predicted: _Sentence, wanted: _Sentence) -> float:
    """Mean of the clipped cosine over sizes, times the penalty for a difference in length."""
    cosines = [
        sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs) / (a * b)
        for ours, theirs, a, b in zip(predicted.vectors, wanted.vectors, predicted.norms, wanted.norms, strict=True)
        if a and b
    ]
    return sum(cosines) / _LONGEST * math.exp(-((predicted.length - wanted.length) ** 2) / (2 * _SIGMA**2))
