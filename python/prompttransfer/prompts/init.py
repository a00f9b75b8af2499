"""P_init, the common start of all task prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from prompttransfer.models import Backbone

_VOCABULARY = 5000  # the first ids are the frequent tokens (ATTEMPT's and DTVG's choice)
INITS = ("vocabulary", "text", "labels", "uniform")


def initial_prompt(
    backbone: Backbone,
    length: int,
    kind: str = "vocabulary",
    *,
    seed: int = 42,
    text: str = "",
    labels: Sequence[str] = (),
) -> Tensor:
    """P_init (L, H), float32, on the CPU, mostly from the model's own token embeddings.

    Args:
        kind: "vocabulary": random tokens from the first 5,000, as in the papers; no special or added tokens, ids that
            the tokenizer does not use, or tokens embedded as zeros (often padding), which normalisation cannot rescale.
            "text": the tokens of a text, cut or repeated to L. "labels": one prompt token per label, the mean of the
            label's tokens, then random tokens (Lester et al. 2021, section 3.2); labels beyond L are dropped.
            "uniform": U(-0.5, 0.5).
        seed: seed of the random tokens or numbers.
        text: text for "text".
        labels: labels for "labels"; duplicates count once.

    Raises:
        ValueError: the kind is unknown, text or labels are missing, or there are too few tokens to draw from.
    """
    if kind == "vocabulary":
        return _embedded(backbone, _drawn(backbone, length, seed))
    if kind == "text":
        tokens = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise ValueError(f"init text {text!r} has no tokens")
        return _embedded(backbone, (tokens * (length // len(tokens) + 1))[:length])
    if kind == "labels":
        named = list(dict.fromkeys(labels))[:length]
        if not named:
            raise ValueError("init 'labels' needs a task with choices, got none")
        rows = [_embedded(backbone, ids).mean(dim=0) for ids in backbone.encode_answers(named, end=False)]
        drawn = _embedded(backbone, _drawn(backbone, length - len(rows), seed))
        return torch.cat([torch.stack(rows), drawn])
    if kind == "uniform":
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(length, backbone.hidden_size, generator=generator) - 0.5
    raise ValueError(f"prompt init: got {kind!r}, want {', '.join(INITS[:-1])} or {INITS[-1]}")


def _drawn(backbone: Backbone, length: int, seed: int) -> list[int]:
    """The first ids of a random permutation of the tokens that stand for text."""
    table, tokenizer = backbone.embedding.weight, backbone.tokenizer
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(min(_VOCABULARY, table.shape[0]), generator=generator)
    embedded = table[order.to(table.device)].any(dim=1).tolist()
    apart = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    used = set(tokenizer.get_vocab().values()) - apart
    ids = [token for token, real in zip(order.tolist(), embedded, strict=True) if real and token in used]
    if length > len(ids):
        raise ValueError(f"prompt length {length} exceeds the {len(ids)} vocabulary rows it would start from")
    return ids[:length]


def _embedded(backbone: Backbone, ids: Sequence[int]) -> Tensor:
    """Embeddings (N, H), scaled if the model scales its embeddings (Gemma, some BART)."""
    with torch.no_grad():
        rows: Tensor = backbone.embedding(torch.tensor(ids, dtype=torch.int64, device=backbone.device))
    return rows.float().cpu()


def init_hash(start: Tensor) -> str:
    """Content hash of a start prompt. Task vectors from different starts cannot be combined."""
    content = start.detach().cpu().float().contiguous()
    return hashlib.sha256(repr(tuple(content.shape)).encode() + content.numpy().tobytes()).hexdigest()[:16]
