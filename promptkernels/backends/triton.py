"""Backend ``triton``: Triton kernels for every GPU that Triton knows (NVIDIA, AMD, Intel).

If ``TRITON_INTERPRET=1`` is set before Python starts, the same kernels run program by program in Triton's interpreter,
only on CPU tensors: slowly, for tests and debugging.

Neither this module nor the package imports Triton until this backend is used or its status is queried.
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
        return "torch finds no GPU, and CPU tensors need TRITON_INTERPRET=1 to be set before Python starts"
    try:
        import triton

        if not INTERPRETED:
            _ = triton.runtime.driver.active.utils  # compiles its launcher: fails without a driver or a C compiler
        for name in TABLE:
            _kernel(name)
    except Exception as error:  # a broken installation may raise anything; the other backends must keep working
        return f"triton does not work here: {type(error).__name__}: {error}".splitlines()[0]
    return None


def facts() -> dict[str, str]:
    """Version of Triton, and whether its interpreter replaces a GPU; empty without Triton."""
    try:
        return {"triton": version("triton"), "interpreter": "on" if INTERPRETED else "off"}
    except PackageNotFoundError:
        return {}


@functools.cache
def _kernel(name: str) -> Callable[..., Any]:
    return TABLE[name].implementation_in("promptkernels.backends.triton_kernels")


def _lazily(name: str) -> Callable[..., Any]:
    return lambda *arguments: _kernel(name)(*arguments)


BACKEND = Backend(
    "triton",
    devices=("cpu",) if INTERPRETED else ("cuda", "xpu"),
    why_unavailable=why_unavailable,
    facts=facts,
    functions={name: _lazily(name) for name in TABLE},
)
