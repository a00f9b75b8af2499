"""Metrics of libraries: BLEU and TER of sacrebleu, ROUGE of rouge-score, METEOR of nltk."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

from prompttransfer.tasks.text_metrics.answers import References
from prompttransfer.tasks.text_metrics.tokens import tokenize


def bleu(references: References, predictions: Sequence[str]) -> float:
    """Corpus BLEU-4 in per cent, with sacrebleu's defaults: case-sensitive, tokens of mteval-v13a."""
    from sacrebleu.metrics import BLEU

    # force: no warning about text that looks tokenized, as in some data sets
    return BLEU(force=True).corpus_score(list(predictions), _streams(references)).score


def ter(references: References, predictions: Sequence[str]) -> float:
    """Translation edit rate in per cent, with sacrebleu's defaults: 0 is best, case-insensitive."""
    from sacrebleu.metrics import TER

    return TER().corpus_score(list(predictions), _streams(references)).score


def rouge(kind: str, references: References, predictions: Sequence[str]) -> float:
    """Best F1 with a reference, mean over rows, in per cent; without stemming, the default of rouge-score."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind])
    best = [
        scorer.score_multi(row, prediction)[kind].fmeasure
        for row, prediction in zip(references, predictions, strict=True)
    ]
    return 100 * sum(best) / len(best)


def meteor(references: References, predictions: Sequence[str]) -> float:
    """Best METEOR with a reference, mean over rows, 0..1 (Lavie and Agarwal 2007: alpha 0.9, beta 3, gamma 0.5).

    This differs from the Java program (METEOR 1.5), which also matches paraphrases and has other weights. nltk looks up
    synonyms by word stems. Lower case, tokens of mteval-v13a.
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


def _streams(references: References) -> list[list[str | None]]:
    """All rows' first references, then their second ones, and so on. None if a row has fewer."""
    return [list(stream) for stream in zip_longest(*references)]
