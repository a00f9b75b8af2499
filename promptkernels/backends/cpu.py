"""Backend ``cpu``: C++ kernels for AVX-512, AVX2 and baseline x86-64 (or plain vectors elsewhere), chosen at run time.

Kernels use torch's own OpenMP pool with `torch.get_num_threads` threads, or the number set by `use_threads`.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any

import torch

from promptkernels.backends.native import Native, load
from promptkernels.backends.registry import Backend
from promptkernels.ops.table import TABLE

_C, _reason = load("_C_cpu")


def why_unavailable() -> str | None:
    """None if the backend can run here, else the reason, in one line."""
    return _reason


def facts() -> dict[str, str]:
    """Compiler, instruction sets and OpenMP library of the compiled module; empty without it."""
    return {} if _C is None else {key: str(value) for key, value in _C.build_info().items()}


_own = local()


def use_threads(count: int) -> None:
    """Set the number of threads for operations of the calling thread: 1 in a pool that already uses all cores."""
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    _own.threads = count


def _run(function: Callable[..., Any], _device: torch.device, *arguments: Any) -> None:
    function(*arguments, getattr(_own, "threads", 0) or torch.get_num_threads())


_native = Native(_C, _run)
BACKEND = Backend(
    "cpu",
    devices=("cpu",),
    why_unavailable=why_unavailable,
    facts=facts,
    functions={name: operation.compiled(_native) for name, operation in TABLE.items()},
)
