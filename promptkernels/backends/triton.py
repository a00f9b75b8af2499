"""Backend ``triton``: Triton kernels for every GPU that Triton knows (NVIDIA, AMD, Intel).

With ``TRITON_INTERPRET=1`` in the environment before Python starts, the same kernels run one program after the other in
Triton's interpreter, on CPU tensors and on nothing else: slowly, for tests and debugging.

Neither this module nor the package imports Triton until somebody asks for this backend.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch

from promptkernels.backends.registry import Backend
from promptkernels.ops.table import TABLE

INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "yes", "on", "y")


@functools.cache
def why_unavailable() -> str | None:
    """None if the backend can run here, else the reason in one line."""
    if find_spec("triton") is None:
        return "the package triton is not installed"
    if not INTERPRETED and not (torch.cuda.is_available() or torch.xpu.is_available()):
        return "torch finds no GPU, and on CPU tensors it runs only with TRITON_INTERPRET=1 set before Python starts"
    try:
        import triton

        if not INTERPRETED:
            _ = triton.runtime.driver.active.utils  # compiles its launcher: fails without a driver or a C compiler
        for name in TABLE:
            _kernel(name)
    except Exception as error:  # whatever a broken installation raises, the other backends go on
        return f"triton does not work here: {type(error).__name__}: {error}".splitlines()[0]
    return None


def facts() -> dict[str, str]:
    """Version of Triton and whether its interpreter stands in for a GPU; empty without it."""
    try:
        return {"triton": version("triton"), "interpreter": "on" if INTERPRETED else "off"}
    except PackageNotFoundError:
        return {}


@functools.cache
def _kernel(name: str) -> Callable[..., Any]:
    return TABLE[name].found_in("promptkernels.backends.triton_kernels")


def _lazily(name: str) -> Callable[..., Any]:
    return lambda *arguments: _kernel(name)(*arguments)


BACKEND = Backend(
    "triton",
    devices=("cpu",) if INTERPRETED else ("cuda", "xpu"),
    why_unavailable=why_unavailable,
    facts=facts,
    functions={name: _lazily(name) for name in TABLE},
)
