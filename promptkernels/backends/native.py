"""What the compiled backends share: tensors become addresses, sizes and type codes.

Both native modules have the same functions; only their last argument differs, a number of threads or a stream. How an
operation calls them stands beside it, in its file of `promptkernels.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

# That of the compiled modules this file knows how to call: kInterface in csrc/bindings.h.
INTERFACE = 5

CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


class Native(NamedTuple):
    """A compiled module and how it is called: ``run(function, device, *arguments)`` adds the last argument."""

    module: Any  # None where it is not there: no operation may be called then
    run: Callable[..., None]


def load(name: str) -> tuple[ModuleType | None, str | None]:
    """The compiled module ``promptkernels.<name>``, or None and the reason in one line."""
    full = f"promptkernels.{name}"
    try:
        module = import_module(full)
    except ModuleNotFoundError:
        return None, f"the package was installed without the compiled module {full}"
    except (ImportError, ValueError) as error:  # ValueError: a wrong PROMPTKERNELS_CPU
        return None, f"{full} does not load: {error}"
    if getattr(module, "INTERFACE", None) != INTERFACE:
        return None, f"{full} was built for another version of the package: install it again"
    return module, None


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def addresses(needs: Sequence[bool], tensors: Sequence[Tensor]) -> list[int]:
    """Where to write what is needed; 0 for the rest."""
    return [tensor.data_ptr() if need else 0 for need, tensor in zip(needs, tensors, strict=True)]


def allocate(like: Tensor, dtype: torch.dtype, *shape: int) -> Tensor:
    """An empty tensor on the device of another; to name its type where that is the same costs a third of the call."""
    return like.new_empty(*shape) if like.dtype == dtype else like.new_empty(shape, dtype=dtype)


def typed(dtype: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    """Contiguous and of this type; the tensors themselves where they already are."""
    return [
        None if tensor is None else (tensor if tensor.dtype == dtype else tensor.to(dtype)).contiguous()
        for tensor in tensors
    ]


def common(acc: torch.dtype, first: Tensor, *others: Tensor | None) -> list[Any]:
    """Contiguous tensors of one type: their own where they agree on one that accumulates in acc, else acc."""
    dtype = first.dtype
    if acc == torch.float64:
        dtype = acc
    for other in others:
        if other is not None and other.dtype != dtype:
            dtype = acc
    return typed(dtype, first, *others)
