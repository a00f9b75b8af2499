"""What every Triton operation here needs on the host: types, contiguous inputs, outputs, launches on the right device.

Block sizes and warps are fixed per operation: no autotuning, so no pause at the first call and the same bits each time.
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
    """A tensor to write a gradient to, if it is needed; kernels skip what is None."""
    return torch.empty(like.shape, dtype=acc, device=device) if need else None


def or_empty(tensors: tuple[Tensor | None, ...], acc: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    """An operation returns tensors only, so a gradient nobody asked for is an empty one."""
    return tuple(torch.empty(0, dtype=acc, device=device) if tensor is None else tensor for tensor in tensors)


def splits(acc: torch.dtype, device: torch.device) -> bool:
    """Whether float32 products are three in TF32: on NVIDIA's tensor cores, where others are slow.

    AMD's matrix cores multiply float32 as it is.
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
        kernel[grid](*arguments, **meta, enable_fp_fusion=True)  # the default of this option depends on the version
