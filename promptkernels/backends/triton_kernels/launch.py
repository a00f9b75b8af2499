"""Host code shared by the Triton operations: types, contiguous inputs, outputs, launches on the right device.

Block sizes and warps are fixed per operation. Without autotuning, the first call is fast and results are reproducible.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import driver

from promptkernels.backends.triton import INTERPRETED

ACC = {torch.float32: tl.float32, torch.float64: tl.float64}


def contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def wanted(need: bool, like: Tensor | None, acc: torch.dtype, device: torch.device) -> Tensor | None:
    """A tensor for a gradient, or None if it is not needed. Kernels skip None."""
    return torch.empty(like.shape, dtype=acc, device=device) if need else None


def or_empty(tensors: tuple[Tensor | None, ...], acc: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """Replace None by an empty tensor, because an operation can return only tensors."""
    return tuple(torch.empty(0, dtype=acc, device=device) if tensor is None else tensor for tensor in tensors)


def splits(acc: torch.dtype, device: torch.device) -> bool:
    """Whether to split float32 products into three TF32 products, for NVIDIA's tensor cores.

    AMD's matrix cores multiply float32 directly.
    """
    if INTERPRETED or acc != torch.float32:
        return False
    with _on(device):
        target = driver.active.get_current_target()
    return target.backend == "cuda" and target.arch >= 80


def _on(device: torch.device) -> AbstractContextManager[Any]:
    return nullcontext() if device.type == "cpu" else torch.get_device_module(device).device(device)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **meta: Any) -> None:
    """Run ``kernel[grid](*arguments)`` on the device of its tensors, on torch's current stream there."""
    device = next(argument.device for argument in arguments if argument is not None)
    with _on(device):
        kernel[grid](*arguments, **meta, enable_fp_fusion=True)  # the default depends on Triton's version
