"""What tells two models apart in the keys of stored results."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import nn


def fingerprint(model: nn.Module, tokenizer: Any) -> str:
    """16 hex digits of what a model computes: its type, its weights, its vocabulary."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(content.view(torch.uint8).numpy().data if content.numel() else b"")
    for key, value in sorted(model.config.to_dict().items()):
        if key not in ("_name_or_path", "transformers_version", "_attn_implementation"):
            digest.update(f"{key}={value!r};".encode())
    digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
    return digest.hexdigest()[:16]
