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


def typed(dtype: torch.dtype, tensor: Any) -> Any:
    """Contiguous and of this type; the tensor itself where it already is."""
    if tensor is None:
        return None
    return (tensor if tensor.dtype == dtype else tensor.to(dtype)).contiguous()


def common(acc: torch.dtype, *tensors: Tensor | None) -> list[Any]:
    """Contiguous tensors of one type: their own where they agree on one that accumulates in acc, else acc."""
    kinds = {t.dtype for t in tensors if t is not None}
    dtype = kinds.pop() if len(kinds) == 1 and (acc == torch.float32 or torch.float64 in kinds) else acc
    return [typed(dtype, t) for t in tensors]
