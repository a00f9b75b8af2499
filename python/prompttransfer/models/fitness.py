"""Whether prompts can be trained for a model at all: the model itself is asked, as new families bring new reasons."""

from __future__ import annotations

import torch
from torch import Tensor

from prompttransfer.models.backbone import Backbone

_LONG, _SHORT, _ANSWER = [3, 4, 5, 6, 7, 8, 9, 10], [11], [3, 4, 5]


@torch.no_grad()
def check_fitness(backbone: Backbone) -> None:
    """Compare what a model computes for a few tokens in several ways.

    Raises:
        ValueError: it computes something else from embeddings than from the tokens they belong to (scaled outside their
            table: Pegasus; looked up in every layer: Gemma 3n), for a row beside padding than for the row alone (RWKV,
            RecurrentGemma), or for a token than what it will compute once later ones are written (ProphetNet).
    """
    name = type(backbone.model).__name__
    if not _reads_embeddings(backbone):
        raise ValueError(
            f"{name} computes something else from embeddings than from the tokens they belong to, so no prompt can "
            "stand before its text"
        )
    alone = _first_logits(backbone, [_SHORT], _ANSWER[:1])
    if not _alike(_first_logits(backbone, [_SHORT, _LONG], _ANSWER[:1]), alone):
        raise ValueError(
            f"{name} computes something else for a row with padding than for the row alone, so rows of different "
            "lengths cannot share a batch"
        )
    if not _alike(_first_logits(backbone, [_SHORT], _ANSWER), alone):
        raise ValueError(
            f"{name} computes something else for a token once later ones are there, so it cannot learn answers of "
            "several tokens"
        )


def _reads_embeddings(backbone: Backbone) -> bool:
    model, embedding = backbone.model, backbone.embedding
    ids = torch.arange(3, 7, device=backbone.device)[None]
    options = {"decoder_input_ids": ids} if backbone.seq2seq else {}
    with backbone.autocast():
        want = model(input_ids=ids, use_cache=False, **options).logits.float()
        got = model(inputs_embeds=embedding(ids), use_cache=False, **options).logits.float()
    return bool((got - want).abs().max() <= 1e-2 * want.std())


def _first_logits(backbone: Backbone, rows: list[list[int]], answer: list[int]) -> Tensor:
    """Logits (V,) for the first token of the answer to the first row."""
    batch = backbone.collate(rows, [answer] * len(rows))
    return backbone(None, {name: tensor.to(backbone.device) for name, tensor in batch.items()}).logits[0]


def _alike(logits: Tensor, others: Tensor) -> bool:
    """But for rounding, be it that of 8-bit weights, or of bfloat16 where it changes the choice of experts."""
    return bool((logits - others).abs().mean() <= 0.05 * others.std())
