"""NIST: n-gram matches weighed by how much they tell.

The score of mteval-v13a. nltk's corpus_nist agrees with it for a single reference only: it matches each reference apart
and takes the length of the best one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from prompttransfer.tasks.text_metrics.answers import References
from prompttransfer.tasks.text_metrics.tokens import Gram, ngrams, tokenize

_LONGEST = 5
# The penalty is 0.5 where a prediction has two thirds of the words of the average reference.
_BETA = math.log(0.5) / math.log(1.5) ** 2


def nist(references: References, predictions: Sequence[str]) -> float:
    """Corpus NIST of n-grams up to five (Doddington 2002, equation 3), from 0 on, open above.

    An n-gram matches when any reference of its row has it, as often as the one that has it most; it weighs
    log2(count of its first n - 1 words / its count) over all references. Lower case, tokens of mteval-v13a.
    """
    rows = [[tokenize(answer) for answer in row] for row in references]
    given = [tokenize(prediction) for prediction in predictions]
    wanted_length = sum(sum(map(len, row)) / len(row) for row in rows)
    given_length = sum(map(len, given))
    if not wanted_length or not given_length:
        return 0.0
    shorter: Counter[Gram] = Counter({(): sum(len(answer) for row in rows for answer in row)})
    total = 0.0
    for size in range(1, _LONGEST + 1):
        counts: Counter[Gram] = Counter()
        matches: Counter[Gram] = Counter()
        asked = 0
        for row, prediction in zip(rows, given, strict=True):
            most: Counter[Gram] = Counter()
            for answer in row:
                found = ngrams(answer, size)
                counts.update(found)
                most |= found
            grams = ngrams(prediction, size)
            asked += grams.total()
            matches.update(grams & most)
        if not asked:  # no prediction is that long
            break
        total += sum(times * math.log2(shorter[gram[:-1]] / counts[gram]) for gram, times in matches.items()) / asked
        shorter = counts
    ratio = min(given_length / wanted_length, 1.0)
    return total * math.exp(_BETA * math.log(ratio) ** 2)
