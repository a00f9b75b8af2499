"""What every Triton operation here needs on the host: types, contiguous inputs, outputs, launches on the right device.

Block sizes and warps are fixed per operation: no autotuning, so no pause at the first call and the same bits each time.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def wanted(need: bool, like: Tensor | None, acc: torch.dtype, device: torch.device) -> Tensor | None:
    """A tensor to write a gradient to, if it is needed; kernels skip what is None."""
    return torch.empty(like.shape, dtype=acc, device=device) if need else None


def or_empty(tensors: tuple[Tensor | None, ...], acc: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """An operation returns tensors only, so a gradient nobody asked for is an empty one."""
    return tuple(torch.empty(0, dtype=acc, device=device) if tensor is None else tensor for tensor in tensors)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **meta: Any) -> None:
    """Run ``kernel[grid](*arguments)`` on the device of its tensors, on torch's current stream there."""
    device = next(argument.device for argument in arguments if argument is not None)
    with nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device):
        kernel[grid](*arguments, **meta, enable_fp_fusion=True)  # the default of this option depends on the version
