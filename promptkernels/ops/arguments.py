"""Argument checks of the registered operations, because ``torch.ops.promptkernels.*`` is public.

They read only metadata and take less than a microsecond. The public functions first do their own checks, with messages
in terms of the caller's shapes (`promptkernels.ops.checks`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptkernels.backends.types import FLOATING


def wrong_type(name: str, tensor: Tensor) -> ValueError:
    return ValueError(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")


def misplaced(name: str, tensor: Tensor, shape: str, device: int) -> ValueError:
    place = "the CPU" if device < 0 else f"device {device}"
    got = f"{tuple(tensor.shape)} on {tensor.device}"
    return ValueError(f"{name} must have shape {shape} and be on {place} like the first argument, got {got}")


def fits(name: str, tensor: Tensor | None, shape: tuple[int, ...], device: int) -> None:
    """Check for a floating tensor of this shape on this device, or None."""
    if tensor is None:
        return
    if tensor.shape != shape or tensor.get_device() != device:
        raise misplaced(name, tensor, str(tuple(shape)), device)
    if tensor.dtype not in FLOATING:
        raise wrong_type(name, tensor)


def saved(name: str, tensor: Tensor, shape: tuple[int, ...], device: int, dtype: torch.dtype) -> None:
    """Check a saved result of the forward operation, which must have the type in which it was written."""
    fits(name, tensor, shape, device)
    if tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, the type of the forward operation's result, got {tensor.dtype}")


def sizes(name: str, tensor: Tensor, dims: str) -> tuple[int, ...]:
    """Shape of a floating tensor, after checking that it has these dimensions and none is 0."""
    shape = tensor.shape
    if len(shape) != len(dims) or 0 in shape:
        raise ValueError(f"{name} must have shape ({', '.join(dims)}), none of them 0, got {tuple(shape)}")
    if tensor.dtype not in FLOATING:
        raise wrong_type(name, tensor)
    return shape


def known(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")


def needed(needs: list[bool], **tensors: Tensor | None) -> None:
    """Check for one truth value per tensor, which must be false for None."""
    if len(needs) != len(tensors):
        raise ValueError(f"needs must have {len(tensors)} truth values, got {len(needs)}")
    for need, (name, tensor) in zip(needs, tensors.items(), strict=True):
        if need and tensor is None:
            raise ValueError(f"needs requests the gradient of {name}, which is None")
