"""Argument checks of the public functions: shapes, types and devices, by metadata alone, before any kernel runs.

`Sizes` binds the letters of a shape (T, L, H, ...) the first time it sees them and holds every later tensor to them, so
an error can say which argument set the size that does not fit.
"""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Sizes:
    """The sizes that the arguments of one call agree on."""

    def __init__(self) -> None:
        self._bound: dict[str, tuple[int, str]] = {}
        self._device: tuple[torch.device, str] | None = None

    def floating(self, name: str, tensor: Tensor, dims: str, may_be_empty: str = "") -> None:
        """``tensor`` is a floating tensor of shape ``dims`` (one letter per dimension)."""
        self._tensor(name, tensor)
        if tensor.dtype not in FLOATING:
            raise ValueError(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")
        self._fit(name, tensor, dims, may_be_empty)

    def indices(self, name: str, tensor: Tensor, dims: str) -> None:
        """``tensor`` holds int32 or int64 indices; their range is checked where the values are read."""
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
            raise ValueError(f"{name} must be on {device} as {owner} is, got {tensor.device}")

    def _fit(self, name: str, tensor: Tensor, dims: str, may_be_empty: str) -> None:
        bound, shape = self._bound, tensor.shape
        if len(shape) != len(dims):
            raise ValueError(f"{_wanted(name, dims)}, got {tuple(shape)}")
        for letter, size in zip(dims, shape, strict=True):
            found = bound.get(letter)
            if found is None:
                if size == 0 and letter not in may_be_empty:
                    raise ValueError(f"{_wanted(name, dims)} with {letter} >= 1, got {tuple(shape)}")
                bound[letter] = (size, name)
            elif found[0] != size:
                agreed, owner = found
                raise ValueError(f"{_wanted(name, dims)} with {letter} = {agreed} as {owner} has, got {tuple(shape)}")


def _wanted(name: str, dims: str) -> str:
    return f"{name} must have shape ({', '.join(dims)}{',' if len(dims) == 1 else ''})"


def is_positive(value: object) -> bool:
    """Whether it is a number > 0 that a float can hold."""
    try:
        return isinstance(value, (int, float)) and float(value) > 0
    except OverflowError:
        return False


def one_of(name: str, value: object, known: tuple[str, ...], also: str = "") -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}{also}, got {value!r}")
