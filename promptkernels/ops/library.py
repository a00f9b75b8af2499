"""Registration with torch: one schema, one fake and one kernel per operation.

The kernel is the same for every device: it asks the registry which backend runs and calls the function of that name
there. So each operation is opaque to `torch.compile`, and forcing a backend works inside compiled code too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from promptkernels.backends import registry

LIBRARY = torch.library.Library("promptkernels", "DEF")


def register(name: str, schema: str, fake: Callable[..., Any]) -> Any:
    """Define ``promptkernels::name`` and return its overload; ``schema`` is the part after the name."""

    def kernel(*args: Any) -> Any:
        first = args[0]
        return getattr(registry.choose(first.device.type, first.dtype), name)(*args)

    LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"promptkernels::{name}", fake, lib=LIBRARY)
    return getattr(torch.ops.promptkernels, name).default


def needs_gradient(*tensors: torch.Tensor | None) -> bool:
    """Whether a call must be recorded; without that the bare operation is called, which costs a third of the time."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
