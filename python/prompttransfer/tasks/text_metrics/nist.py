"""NIST: n-gram matches weighted by their information.

This is the score of mteval-v13a. nltk's corpus_nist agrees with it only for a single reference: it matches each
reference separately and uses the length of the best one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from prompttransfer.tasks.text_metrics.answers import References
from prompttransfer.tasks.text_metrics.tokens import Gram, ngrams, tokenize

_LONGEST = 5
# The penalty is 0.5 if a prediction has two thirds of the words of the average reference.
_BETA = math.log(0.5) / math.log(1.5) ** 2


def nist(references: References, predictions: Sequence[str]) -> float:
    """Corpus NIST of n-grams up to five (Doddington 2002, equation 3): at least 0, unbounded.

    An n-gram matches if any reference of its row has it, up to its largest count in one reference. Its weight is
    log2(count of its first n - 1 words / its count) over all references. Lower case, tokens of mteval-v13a.
    """
    rows = [[tokenize(answer) for answer in row] for row in references]
    predicted = [tokenize(prediction) for prediction in predictions]
    wanted_length = sum(sum(map(len, row)) / len(row) for row in rows)
    predicted_length = sum(map(len, predicted))
    if not wanted_length or not predicted_length:
        return 0.0
    shorter: Counter[Gram] = Counter({(): sum(len(answer) for row in rows for answer in row)})
    total = 0.0
    for size in range(1, _LONGEST + 1):
        counts: Counter[Gram] = Counter()
        matches: Counter[Gram] = Counter()
        asked = 0
        for row, prediction in zip(rows, predicted, strict=True):
            most: Counter[Gram] = Counter()
            for answer in row:
                answer_grams = ngrams(answer, size)
                counts.update(answer_grams)
                most |= answer_grams
            grams = ngrams(prediction, size)
            asked += grams.total()
            matches.update(grams & most)
        if not asked:  # no prediction is that long
            break
        total += sum(times * math.log2(shorter[gram[:-1]] / counts[gram]) for gram, times in matches.items()) / asked
        shorter = counts
    ratio = min(predicted_length / wanted_length, 1.0)
    return total * math.exp(_BETA * math.log(ratio) ** 2)
