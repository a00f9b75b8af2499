"""What the registered operations hold their arguments to, whoever calls them: ``torch.ops.promptkernels.*`` is public.

All by metadata, below a microsecond. The public functions check on their own before (`promptkernels.ops.checks`), in
the words of the caller's shapes.
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
    return ValueError(f"{name} must have shape {shape} and lie on {place} as the first argument, got {got}")


def fits(name: str, tensor: Tensor | None, shape: tuple[int, ...], device: int) -> None:
    """A floating tensor of this shape on this device, or none."""
    if tensor is None:
        return
    if tensor.shape != shape or tensor.get_device() != device:
        raise misplaced(name, tensor, str(tuple(shape)), device)
    if tensor.dtype not in FLOATING:
        raise wrong_type(name, tensor)


def saved(name: str, tensor: Tensor, shape: tuple[int, ...], device: int, dtype: torch.dtype) -> None:
    """A result of the forward operation: it is read in the type in which that wrote it."""
    fits(name, tensor, shape, device)
    if tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, as the forward operation made it, got {tensor.dtype}")


def sizes(name: str, tensor: Tensor, dims: str) -> tuple[int, ...]:
    """The shape of a floating tensor that has so many dimensions, none of them empty."""
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
    """One truth value for each of these tensors, false where there is none."""
    if len(needs) != len(tensors):
        raise ValueError(f"needs must hold {len(tensors)} truth values, got {len(needs)}")
    for need, (name, tensor) in zip(needs, tensors.items(), strict=True):
        if need and tensor is None:
            raise ValueError(f"needs asks for the gradient of {name}, which is not given")
