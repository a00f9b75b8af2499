"""Prompt files: safetensors with a card of strings.

The metadata has a hash of the tensors, so that damage is detected. Files of other programs have none and are read as
they are. A file has the finished matrix `prompt` (L, H), and MPT's files also its factors. The prompts of ATTEMPT and
DePT depend on the row; their files have all tensors that the prompt depends on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prompttransfer.files.durable import replacing
from prompttransfer.interchange.hub import Place, prompt_file

if TYPE_CHECKING:
    from prompttransfer.prompts import InstancePrompt, OffsetPrompt

TENSOR = "prompt"
# Errors of `safe_open` and its tensors for files that are not safetensors, are damaged, or have unsupported types.
UNREADABLE = (SafetensorError, OSError, RuntimeError, TypeError, AttributeError, ValueError)
_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_HASH = "tensors_sha256"
# Tensors in the files of prompts that depend on the row, by method.
_MODULES = {
    "ATTEMPT": {"sources", "target", "down", "up", "norm.weight", "norm.bias", "temperature", "mask_padding"},
    "DePT": {"short", "offset_a", "offset_b"},
}


class Factors(NamedTuple):
    """Factors of an MPT prompt: P = shared * (u @ v), shared (L, H), u (L, R), v (R, H)."""

    shared: Tensor
    u: Tensor
    v: Tensor

    def composed(self) -> Tensor:
        """The composed prompt (L, H)."""
        return self.shared * (self.u @ self.v)


def write_prompt(path: Path, prompt: Tensor, metadata: Mapping[str, str], factors: Factors | None = None) -> None:
    """Write a prompt (L, H) as float32 with its metadata. A reader never sees a partial file.

    Raises:
        ValueError: the prompt is not a matrix of finite numbers, or differs from the product of its factors.
    """
    if prompt.dim() != 2 or not prompt.isfinite().all():
        raise ValueError(f"prompt must be a finite (L, H) matrix, got shape {tuple(prompt.shape)}")
    tensors = {TENSOR: prompt.float()}
    if factors is not None:
        tensors |= {name: tensor.float() for name, tensor in factors._asdict().items()}
        composed = factors.composed()
        if composed.shape != prompt.shape or not torch.allclose(composed, tensors[TENSOR], rtol=1e-4, atol=1e-5):
            raise ValueError("factors: shared * (u @ v) is not the prompt")
    write_tensors(path, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write named tensors with their metadata. A reader sees the old file or the new one, never a part of it."""
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(Path(path)) as temporary:
        save_file(content, temporary, metadata={**metadata, _HASH: _content_hash(content)})


def read_tensors(path: Place) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a safetensors file, and its metadata without the hash.

    Args:
        path: of a file, or a hub ID; all readers take both, see `prompttransfer.interchange.hub.prompt_file`.

    Raises:
        ValueError: the file does not exist, is damaged, or has a different format.
        ConnectionError: the file is on a hub that does not answer.
    """
    local = prompt_file(path)
    if not local.is_file():
        raise ValueError(f"{path}: no such prompt file")
    try:
        with safe_open(local, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a readable safetensors file, or truncated ({error})") from error
    digest = metadata.pop(_HASH, None)
    if digest is not None and digest != _content_hash(tensors):
        raise ValueError(f"{path}: damaged: its tensors are not those that were written; take another copy")
    return tensors, metadata


def read_prompt(path: Place) -> tuple[Tensor, dict[str, str]]:
    """Read a prompt (L, H), float32, and its metadata. Raises ValueError if the file has none."""
    tensors, metadata = read_tensors(path)
    return _prompt(path, tensors), metadata


def read_factors(path: Place) -> Factors | None:
    """Read the factors of the prompt in a file; None if the file has none."""
    tensors, _ = read_tensors(path)
    prompt = _prompt(path, tensors)
    if not set(Factors._fields) <= tensors.keys():
        return None
    shared, u, v = (as_float32(tensors[name], f"{path}: tensor {name!r}") for name in Factors._fields)
    (length, hidden), rank = prompt.shape, u.shape[-1:]
    if shared.shape != prompt.shape or u.shape != (length, *rank) or v.shape != (*rank, hidden):
        shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in (TENSOR, *Factors._fields))
        raise ValueError(f"{path}: got {shapes}, want (L, H), (L, H), (L, R), (R, H)")
    return Factors(shared, u, v)


def read_trained(path: Place) -> tuple[Tensor | InstancePrompt | OffsetPrompt, dict[str, str]]:
    """Read a prompt (L, H), or a prompt that depends on the row, and its metadata.

    Raises:
        ValueError: the file does not exist, or has neither.
    """
    tensors, metadata = read_tensors(path)
    method = _module_of(tensors)
    if method is None:
        return _prompt(path, tensors), metadata
    from prompttransfer.prompts import InstancePrompt, OffsetPrompt  # imports transformers, which takes seconds

    try:
        return (OffsetPrompt.of(tensors) if method == "DePT" else InstancePrompt.of(tensors)), metadata
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _module_of(tensors: Mapping[str, Tensor]) -> str | None:
    """The method of a prompt that depends on the row; None for other tensors."""
    return next((method for method, names in _MODULES.items() if tensors.keys() >= names), None)


def _content_hash(tensors: Mapping[str, Tensor]) -> str:
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name};{tensor.dtype};{tuple(tensor.shape)};".encode())
        state.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return state.hexdigest()


def _prompt(path: Place, tensors: Mapping[str, Tensor]) -> Tensor:
    if TENSOR not in tensors:
        method = _module_of(tensors)
        why = f"; a prompt that depends on the row ({method}) has no matrix" if method else ""
        raise ValueError(f"{path}: holds {', '.join(tensors) or 'nothing'}, want a tensor {TENSOR!r}{why}")
    prompt = tensors[TENSOR]
    if prompt.dim() != 2 or not prompt.numel():
        raise ValueError(f"{path}: tensor {TENSOR!r} has shape {tuple(prompt.shape)}, want (L, H)")
    return as_float32(prompt, f"{path}: tensor {TENSOR!r}")


def as_float32(tensor: Tensor, name: str) -> Tensor:
    """Convert a tensor from a file to float32. Raises ValueError unless it has finite floating numbers."""
    if tensor.dtype not in _FLOATING:
        raise ValueError(f"{name} holds {tensor.dtype}, want float32, float64, bfloat16 or float16")
    single = tensor.to(torch.float32)
    if not single.isfinite().all():
        raise ValueError(f"{name} holds infinite or undefined numbers")
    return single
