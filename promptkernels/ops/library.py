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
from torch.autograd import forward_ad

from promptkernels import reference
from promptkernels.backends import registry
from promptkernels.ops import arguments
from promptkernels.ops.derivatives import refuse_tangents, refuse_tracked

LIBRARY = torch.library.Library("promptkernels", "DEF")

# Tensors with a memory of plain strides, on any device: torch itself refuses sparse, quantized and nested ones, whose
# memory is something else.
_DENSE = ("CPU", "CUDA", "XPU", "MPS", "HPU", "MTIA", "MAIA", "PrivateUse1")


def register(name: str, schema: str, fake: Callable[..., Any], differentiable: bool = True) -> Any:
    """Define ``promptkernels::name`` and return its overload; ``schema`` is the part after the name.

    Where it is differentiable, it refuses the derivatives that it lacks: tangents, and what `torch.func` tracks.
    """
    check = getattr(arguments, name)
    parameters = inspect.signature(check).parameters
    names = tuple(parameters)
    required = [place for place, name in enumerate(names) if parameters[name].annotation == "Tensor"]

    def kernel(*args: Any) -> Any:
        for place in required:
            if args[place] is None:  # torch lets it through
                raise ValueError(f"{names[place]} must be a tensor, got None")
        check(*args)
        if forward_ad._current_level >= 0 and differentiable:
            refuse_tangents(name, args)
        first = args[0]
        backend = registry.choose(first.device.type, first.dtype, first.get_device())
        if backend is reference:
            with _plain(first.device.type):
                return getattr(backend, name)(*args)
        return getattr(backend, name)(*args)

    def checked_fake(*args: Any) -> Any:
        for argument, value in zip(names, args, strict=True):
            # Of tensors on several devices, one of them "meta", torch calls the fake kernel.
            if isinstance(value, torch.Tensor) and value.device != args[0].device:
                raise ValueError(f"{argument} must be on {args[0].device} as {names[0]} is, got {value.device}")
        return fake(*args)

    def define(overload: str) -> Any:
        LIBRARY.define(overload + schema, tags=(torch.Tag.pt2_compliant_tag,))
        for key in _DENSE:
            LIBRARY.impl(overload, kernel, key)
        torch.library.register_fake(f"promptkernels::{overload}", checked_fake, lib=LIBRARY)
        return getattr(getattr(torch.ops.promptkernels, name), overload.partition(".")[2] or "default")

    operation = define(name)
    if differentiable:
        # Under a transform of torch.func calls arrive here first; the overload lets torch's own rules go on.
        inner = define(f"{name}.inner")

        def checked(*args: Any) -> Any:
            refuse_tracked(name, args)
            return inner(*args)

        LIBRARY.impl(name, checked, "FuncTorchDynamicLayerFrontMode")
    return operation


@contextmanager
def _plain(device: str) -> Iterator[None]:
    """Torch's own operations run as a compiled kernel would: not recorded, and not in autocast's type."""
    autocast = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
    with torch.no_grad(), autocast:
        yield
