"""Backend ``cpu``: C++ kernels for AVX-512, AVX2 and baseline x86-64 (or plain vectors elsewhere), chosen at run time.

Threads come from torch's own OpenMP pool, as many as `torch.get_num_threads` says, or `use_threads` for one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import local
from typing import Any

import torch

from promptkernels.backends.native import DTYPES as DTYPES
from promptkernels.backends.native import NativeOps, load

_C, _reason = load("_C_cpu")

NAME = "cpu"
DEVICES = ("cpu",)


def why_unavailable() -> str | None:
    """None if the backend can run here, else the reason in one line."""
    return _reason


def facts() -> dict[str, str]:
    """Compiler, instruction sets and OpenMP library of the compiled module; empty without it."""
    return {} if _C is None else {key: str(value) for key, value in _C.build_info().items()}


_own = local()


def use_threads(count: int) -> None:
    """Operations that the calling thread starts from now on use so many threads: 1 in a pool that fills the cores."""
    if count < 1:
        raise ValueError(f"count must be >= 1, got {count}")
    _own.threads = count


def _run(function: Callable[..., Any], _device: torch.device, *arguments: Any) -> None:
    function(*arguments, getattr(_own, "threads", 0) or torch.get_num_threads())


_ops = NativeOps(_C, _run)
task_similarity = _ops.task_similarity
task_similarity_z = _ops.task_similarity_z
task_similarity_backward = _ops.task_similarity_backward
svgd_direction = _ops.svgd_direction
svgd_direction_backward = _ops.svgd_direction_backward
compose_prompts = _ops.compose_prompts
compose_prompts_backward = _ops.compose_prompts_backward
prepend_prompts = _ops.prepend_prompts
merge_task_vectors = _ops.merge_task_vectors
merge_task_vectors_backward = _ops.merge_task_vectors_backward
select_group = _ops.select_group
