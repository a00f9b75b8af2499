"""Every operation in plain torch: the oracle of the tests, the fallback backend, and a peer in the benchmark.

The operations of `promptkernels.ops` have already checked the arguments: prompts are (T, L, H), and everything is on
one device. Computations are in float64 if any floating argument is float64, else in float32, on any device that torch
supports. Each function follows one formula and is not optimized for speed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from promptkernels.backends.registry import Backend
from promptkernels.ops.table import TABLE

FUNCTIONS = {name: operation.implementation_in(__name__) for name, operation in TABLE.items()}
globals().update(FUNCTIONS)


def _as_a_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run torch's operations like a compiled kernel: without gradient or autocast."""

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        device = arguments[0].device.type
        autocast = torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
        with torch.no_grad(), autocast:
            return function(*arguments)

    return run


BACKEND = Backend(
    "reference",
    devices=("*",),
    why_unavailable=lambda: None,
    facts=lambda: {"torch": torch.__version__},
    functions={name: _as_a_kernel(function) for name, function in FUNCTIONS.items()},
)
