"""Facts from a model's configuration: its positions, its attention window, and its decoder's start token."""

from __future__ import annotations

import re

from torch import nn

# Names of an attention window in transformers configurations.
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
# Names of learned position tables: wpe (GPT-2), embed_positions (OPT, BART), position_embeddings, positions_embed
# (GPT), and of their lengths.
_POSITIONS = re.compile(r"(wpe|positions?|position_embeddings?|positions_embed)$")
_LENGTHS = ("max_position_embeddings", "max_encoder_position_embeddings")


def learned_positions(model: nn.Module) -> int | None:
    """Number of rows of a model's position table; None if positions are computed."""
    config = model.config.get_text_config()
    limits = [getattr(config, name) for name in _LENGTHS if hasattr(config, name)]
    for name, module in model.named_modules():
        if not isinstance(module, nn.Embedding) or not _POSITIONS.search(name):
            continue
        # OPT and BART reserve some rows at the front.
        rows = module.num_embeddings - getattr(module, "offset", 0)
        if rows in limits:
            return rows
    return None


def window(model: nn.Module) -> int | None:
    """Shortest attention window of any layer, in positions, including the current one; None: no window."""
    config = model.config.get_text_config(decoder=True)
    if not getattr(config, "use_sliding_window", True):
        return None
    widths = [getattr(config, name, None) for name in _WINDOWS]
    return min((width for width in widths if isinstance(width, int)), default=None)


def decoder_start(model: nn.Module) -> int | None:
    """Decoder start token of an encoder-decoder, looked up where transformers' `generate` does, then in the decoder's
    configuration; None if it is in neither."""
    generation, config = getattr(model, "generation_config", None), model.config
    places = [config, generation, getattr(config, "decoder", None)]
    for name in ("decoder_start_token_id", "bos_token_id"):
        for place in places:
            token = getattr(place, name, None)
            if isinstance(token, int):
                return token
    return None
