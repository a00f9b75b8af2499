"""What a family of models can read: embeddings, so many positions, so far back."""

from __future__ import annotations

import re

import torch
from torch import nn

# Names of a layer's sight in the configurations of transformers.
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
# Names of tables of learned positions: wpe (GPT-2), embed_positions (OPT, BART), position_embeddings.
_POSITIONS = re.compile(r"(wpe|positions?|position_embeddings?)$")


@torch.no_grad()
def reads_embeddings(model: nn.Module) -> bool:
    """Whether a model computes the same from embeddings as from the tokens they belong to.

    Not so where embeddings are scaled outside their table (Pegasus) or every layer looks tokens up (Gemma 3n).
    """
    embedding = model.get_input_embeddings()
    ids = torch.arange(3, 7, device=embedding.weight.device)[None]
    options = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    want = model(input_ids=ids, use_cache=False, **options).logits.float()
    got = model(inputs_embeds=embedding(ids), use_cache=False, **options).logits.float()
    return bool((got - want).abs().max() <= 1e-2 * want.std())


def learned_positions(model: nn.Module) -> int | None:
    """Rows of a model's table of positions; None where positions are computed."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or not _POSITIONS.search(name):
            continue
        # OPT and BART keep some rows in front for themselves.
        if module.num_embeddings - getattr(module, "offset", 0) == limit:
            return limit
    return None


def window(model: nn.Module) -> int | None:
    """Positions that the layer with the shortest sight looks back over, itself included; None: all of them."""
    config = model.config.get_text_config(decoder=True)
    if not getattr(config, "use_sliding_window", True):
        return None
    found = [getattr(config, name, None) for name in _WINDOWS]
    return min((reach for reach in found if isinstance(reach, int)), default=None)
