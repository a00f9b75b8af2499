"""Corpus metrics of libraries: BLEU and TER of sacrebleu, ROUGE of rouge-score."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import zip_longest

from prompttransfer.tasks.text_metrics.answers import References


def bleu(references: References, predictions: Sequence[str]) -> float:
    """Corpus BLEU-4 in per cent, as sacrebleu computes it by default: case counts, tokens of mteval-v13a."""
    from sacrebleu.metrics import BLEU

    # force: no warning about text that looks tokenised, which data sets may well be
    return BLEU(force=True).corpus_score(list(predictions), _streams(references)).score


def ter(references: References, predictions: Sequence[str]) -> float:
    """Translation edit rate in per cent, as sacrebleu computes it by default: 0 is best, case does not count."""
    from sacrebleu.metrics import TER

    return TER().corpus_score(list(predictions), _streams(references)).score


def _rouge(kind: str, references: References, predictions: Sequence[str]) -> float:
    """Mean over rows of the best F1 with a reference, in per cent; no stemming, as rouge-score does by default."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind])
    best = [
        scorer.score_multi(row, prediction)[kind].fmeasure
        for row, prediction in zip(references, predictions, strict=True)
    ]
    return 100 * sum(best) / len(best)


rouge_1 = partial(_rouge, "rouge1")
rouge_2 = partial(_rouge, "rouge2")
rouge_l = partial(_rouge, "rougeL")


def _streams(references: References) -> list[list[str | None]]:
    """First references of all rows, second ones, and so on: None where a row has no more."""
    return [list(stream) for stream in zip_longest(*references)]
