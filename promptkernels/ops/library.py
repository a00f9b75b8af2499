"""Registration with torch: one schema, one fake and one kernel per operation.

The kernel is the same for every device: it asks the registry which backend runs and calls the function of that name
there. So each operation is opaque to `torch.compile`, and forcing a backend works inside compiled code too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from promptkernels import reference
from promptkernels.backends import registry
from promptkernels.ops import arguments

LIBRARY = torch.library.Library("promptkernels", "DEF")

# Tensors with a memory of plain strides, on any device: torch itself refuses sparse, quantized and nested ones, whose
# memory is something else.
_DENSE = ("CPU", "CUDA", "XPU", "MPS", "HPU", "MTIA", "MAIA", "PrivateUse1")


def register(name: str, schema: str, fake: Callable[..., Any]) -> Any:
    """Define ``promptkernels::name`` and return its overload; ``schema`` is the part after the name."""
    check = getattr(arguments, name)
    parameters = inspect.signature(check).parameters
    names = tuple(parameters)
    required = [place for place, name in enumerate(names) if parameters[name].annotation == "Tensor"]

    def kernel(*args: Any) -> Any:
        for place in required:
            if args[place] is None:  # torch lets it through
                raise ValueError(f"{names[place]} must be a tensor, got None")
        check(*args)
        first = args[0]
        backend = registry.choose(first.device.type, first.dtype, first.get_device())
        if backend is reference:
            with _plain(first.device.type):
                return getattr(backend, name)(*args)
        return getattr(backend, name)(*args)

    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    for key in _DENSE:
        LIBRARY.impl(name, kernel, key)

    def checked_fake(*args: Any) -> Any:
        for argument, value in zip(names, args, strict=True):
            # Of tensors on several devices, one of them "meta", torch calls the fake kernel.
            if isinstance(value, torch.Tensor) and value.device != args[0].device:
                raise ValueError(f"{argument} must be on {args[0].device} as {names[0]} is, got {value.device}")
        return fake(*args)

    torch.library.register_fake(f"promptkernels::{name}", checked_fake, lib=LIBRARY)
    return getattr(torch.ops.promptkernels, name).default


@contextmanager
def _plain(device: str) -> Iterator[None]:
    """Torch's own operations run as a compiled kernel would: not recorded, and not in autocast's type."""
    autocast = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    with torch.no_grad(), autocast:
        yield


def needs_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether a call must be recorded; without that the bare operation is called, which costs a third of the time."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
