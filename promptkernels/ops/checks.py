"""Argument checks of the public functions: shapes, types and devices, from metadata, before any kernel runs.

`Sizes` binds the letters of a shape (T, L, H, ...) at their first use and checks all later tensors against them, so an
error can name the argument that set a size.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Sizes:
    """The common sizes of the arguments of one call."""

    def __init__(self) -> None:
        self._bound: dict[str, tuple[int, str]] = {}
        self._device: tuple[torch.device, str] | None = None

    def floating(self, name: str, tensor: Tensor, dims: str, may_be_empty: str = "") -> None:
        """Check for a floating tensor of shape ``dims`` (one letter per dimension)."""
        self._tensor(name, tensor)
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")
        self._fit(name, tensor, dims, may_be_empty)

    def indices(self, name: str, tensor: Tensor, dims: str) -> None:
        """Check for int32 or int64 indices. Their range is checked when the values are read."""
        self._tensor(name, tensor)
        if tensor.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be int32 or int64, got {tensor.dtype}")
        self._fit(name, tensor, dims, dims)

    def _tensor(self, name: str, tensor: Tensor) -> None:
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_nested:
            kind = "a nested tensor" if tensor.is_nested else tensor.layout
            raise ValueError(f"{name} must be a dense tensor (torch.strided), got {kind}")
        if self._device is None:
            self._device = (tensor.device, name)
        elif tensor.device != self._device[0]:
            device, owner = self._device
            raise ValueError(f"{name} must be on {device} like {owner}, got {tensor.device}")

    def _fit(self, name: str, tensor: Tensor, dims: str, may_be_empty: str) -> None:
        bound, shape = self._bound, tensor.shape
        if len(shape) != len(dims):
            raise ValueError(f"{_wanted(name, dims)}, got {tuple(shape)}")
        for letter, size in zip(dims, shape, strict=True):
            entry = bound.get(letter)
            if entry is None:
                if size == 0 and letter not in may_be_empty:
                    raise ValueError(f"{_wanted(name, dims)} with {letter} >= 1, got {tuple(shape)}")
                bound[letter] = (size, name)
            elif entry[0] != size:
                agreed, owner = entry
                raise ValueError(f"{_wanted(name, dims)} with {letter} = {agreed} as in {owner}, got {tuple(shape)}")


def _wanted(name: str, dims: str) -> str:
    return f"{name} must have shape ({', '.join(dims)}{',' if len(dims) == 1 else ''})"


def is_positive(value: object) -> bool:
    """Whether the value is a number > 0 that fits in a float."""
    try:
        return isinstance(value, (int, float)) and float(value) > 0
    except OverflowError:
        return False


def one_of(name: str, value: object, known: tuple[str, ...], also: str = "") -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}{also}, got {value!r}")
