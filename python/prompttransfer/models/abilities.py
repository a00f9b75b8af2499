"""What a model says of itself: how many positions it reads, how far back, and which token its decoder starts with."""

from __future__ import annotations

import re

from torch import nn

# Names of a layer's sight in the configurations of transformers.
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
# Names of tables of learned positions: wpe (GPT-2), embed_positions (OPT, BART), position_embeddings, positions_embed
# (GPT), and of their lengths.
_POSITIONS = re.compile(r"(wpe|positions?|position_embeddings?|positions_embed)$")
_LENGTHS = ("max_position_embeddings", "max_encoder_position_embeddings")


def learned_positions(model: nn.Module) -> int | None:
    """Rows of a model's table of positions; None where positions are computed."""
    config = model.config.get_text_config()
    limits = [getattr(config, name) for name in _LENGTHS if hasattr(config, name)]
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or not _POSITIONS.search(name):
            continue
        # OPT and BART keep some rows in front for themselves.
        rows = module.num_embeddings - getattr(module, "offset", 0)
        if rows in limits:
            return rows
    return None


def window(model: nn.Module) -> int | None:
    """Positions that the layer with the shortest sight looks back over, itself included; None: all of them."""
    config = model.config.get_text_config(decoder=True)
    if not getattr(config, "use_sliding_window", True):
        return None
    found = [getattr(config, name, None) for name in _WINDOWS]
    return min((reach for reach in found if isinstance(reach, int)), default=None)


def decoder_start(model: nn.Module) -> int | None:
    """The token that an encoder-decoder's answers start behind, where `generate` of transformers finds it, or in the
    configuration of its decoder; None: nowhere."""
    generation, config = getattr(model, "generation_config", None), model.config
    places = [config, generation, getattr(config, "decoder", None)]
    for name in ("decoder_start_token_id", "bos_token_id"):
        for place in places:
            token = getattr(place, name, None)
            if isinstance(token, int):
                return token
    return None
