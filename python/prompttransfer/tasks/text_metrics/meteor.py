"""METEOR of nltk: words matched exactly, by stem, then by synonym."""

from __future__ import annotations

from collections.abc import Sequence

from prompttransfer.tasks.text_metrics.answers import References
from prompttransfer.tasks.text_metrics.tokens import tokenize


def meteor(references: References, predictions: Sequence[str]) -> float:
    """Mean over rows of the best METEOR with a reference, 0..1 (Lavie and Agarwal 2007: alpha 0.9, beta 3, gamma 0.5).

    Not the score of the Java program (METEOR 1.5), which also matches paraphrases and has other weights; and nltk looks
    synonyms up by the stems of words. Lower case, tokens of mteval-v13a.
    """
    from nltk.corpus import wordnet
    from nltk.translate.meteor_score import meteor_score

    scores = [
        meteor_score([tokenize(answer) for answer in row], tokenize(prediction), wordnet=wordnet)
        for row, prediction in zip(references, predictions, strict=True)
    ]
    return sum(scores) / len(scores)


def has_wordnet() -> bool:
    """Whether nltk finds its WordNet data."""
    from nltk.data import find

    for name in ("corpora/wordnet", "corpora/wordnet.zip"):
        try:
            find(name)
        except LookupError:
            continue
        return True
    return False
