"""Test whether a model can be trained with prompts at all, by running it: reasons differ from family to family."""

from __future__ import annotations

import torch
from torch import Tensor

from prompttransfer.models.backbone import Backbone

_LONG, _SHORT, _ANSWER = [3, 4, 5, 6, 7, 8, 9, 10], [11], [3, 4, 5]


@torch.no_grad()
def check_fitness(backbone: Backbone) -> None:
    """Run a model on a few tokens in several ways and compare the logits.

    Raises:
        ValueError: the logits differ between tokens and their embeddings (scaled outside the table: Pegasus; looked up
            in every layer: Gemma 3n), between a row with and without padding (RWKV, RecurrentGemma), or between a token
            with and without later tokens (ProphetNet).
    """
    name = type(backbone.model).__name__
    if not _reads_embeddings(backbone):
        raise ValueError(
            f"{name} gives different results for embeddings than for the tokens they belong to, so it cannot read a "
            "prompt before its text; use another model"
        )
    alone = _first_logits(backbone, [_SHORT], _ANSWER[:1])
    if not _alike(_first_logits(backbone, [_SHORT, _LONG], _ANSWER[:1]), alone):
        raise ValueError(
            f"{name} gives different results for a row with padding than for the row alone, so rows of different "
            "lengths cannot share a batch; use another model"
        )
    if not _alike(_first_logits(backbone, [_SHORT], _ANSWER), alone):
        raise ValueError(
            f"{name} gives different results for a token once later tokens follow, so it cannot learn answers of "
            "several tokens; use another model"
        )


def _reads_embeddings(backbone: Backbone) -> bool:
    model, embedding = backbone.model, backbone.embedding
    ids = torch.arange(3, 7, device=backbone.device)[None]
    options = {"decoder_input_ids": ids} if backbone.seq2seq else {}
    with backbone.computing():
        want = model(input_ids=ids, use_cache=False, **options).logits.float()
        got = model(inputs_embeds=embedding(ids), use_cache=False, **options).logits.float()
    return bool((got - want).abs().max() <= 1e-2 * want.std())


def _first_logits(backbone: Backbone, rows: list[list[int]], answer: list[int]) -> Tensor:
    """Logits (V,) for the first token of the answer to the first row."""
    batch = backbone.collate(rows, [answer] * len(rows))
    return backbone(None, {name: tensor.to(backbone.device) for name, tensor in batch.items()}).logits[0]


def _alike(logits: Tensor, others: Tensor) -> bool:
    """Whether logits agree up to rounding, including that of 8-bit weights and of bfloat16 in the choice of experts."""
    return bool((logits - others).abs().mean() <= 0.05 * others.std())
