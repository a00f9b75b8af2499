"""Every operation in plain torch: the oracle of the tests, the backend of last resort, the peer of the benchmark.

The functions take arguments that the operations of `promptkernels.ops` have already checked: prompts are (T, L, H),
everything is on one device. They compute in float64 when any floating argument is float64 and in float32 otherwise, on
any device torch knows. Each mirrors one formula; speed is not their aim.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch

from promptkernels.backends.registry import Backend
from promptkernels.ops.table import TABLE

FUNCTIONS = {name: operation.found_in(__name__) for name, operation in TABLE.items()}
globals().update(FUNCTIONS)


def _as_a_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Torch's own operations run as a compiled kernel would: not recorded, and not in autocast's type."""

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
