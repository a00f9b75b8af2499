"""Shared code of the compiled backends, which pass tensors as addresses, sizes and type codes.

Both native modules have the same functions. Only their last argument differs: a number of threads, or a stream. The
calls of an operation are in its file in `promptkernels.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Interface version of the compiled modules that this file can call: kInterface in csrc/bindings.h.
INTERFACE = 5

CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class Native(NamedTuple):
    """A compiled module and how to call it: ``run(function, device, *arguments)`` adds the last argument."""

    module: Any  # None if it is missing; then no operation may be called
    run: Callable[..., None]


def load(name: str) -> tuple[ModuleType | None, str | None]:
    """Load the compiled module ``promptkernels.<name>``; None and the reason, in one line, if that fails."""
    full = f"promptkernels.{name}"
    try:
        module = import_module(full)
    except ModuleNotFoundError:
        return None, f"the package was installed without the compiled module {full}"
    except (ImportError, ValueError) as error:  # ValueError: an invalid PROMPTKERNELS_CPU
        return None, f"{full} does not load: {error}"
    if getattr(module, "INTERFACE", None) != INTERFACE:
        return None, f"{full} was built for another version of the package: install it again"
    return module, None


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def addresses(needs: Sequence[bool], tensors: Sequence[Tensor]) -> list[int]:
    """Addresses of the needed outputs; 0 for the others."""
    return [tensor.data_ptr() if need else 0 for need, tensor in zip(needs, tensors, strict=True)]


def allocate(like: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    """An empty tensor on the device of another. Passing an equal type explicitly would make the call a third slower."""
    return like.new_empty(*shape) if like.dtype == dtype else like.new_empty(shape, dtype=dtype)


def typed(dtype: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    """Convert tensors to contiguous ones of this type. Tensors that already are stay as they are."""
    return [
        None if tensor is None else (tensor if tensor.dtype == dtype else tensor.to(dtype)).contiguous()
        for tensor in tensors
    ]


def common(acc: torch.dtype, first: Tensor, *others: Tensor | None) -> list[Any]:
    """Convert tensors to contiguous ones of one type: their common type if it accumulates in acc, else acc."""
    dtype = first.dtype
    if acc == torch.float64:
        dtype = acc
    for other in others:
        if other is not None and other.dtype != dtype:
            dtype = acc
    return typed(dtype, first, *others)
