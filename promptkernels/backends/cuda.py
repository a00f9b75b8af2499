"""Backend ``cuda``: CUDA C++ kernels on torch's current stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from promptkernels.backends.native import DTYPES as DTYPES
from promptkernels.backends.native import NativeOps

try:
    import promptkernels._C_cuda as _C

    _import_error: Exception | None = None
except ImportError as error:
    _C, _import_error = None, error

NAME = "cuda"
DEVICES = ("cuda",)


def why_unavailable() -> str | None:
    """None if the backend can run here, else the reason in one line."""
    if isinstance(_import_error, ModuleNotFoundError):
        return "the package was installed without the compiled module promptkernels._C_cuda"
    if _import_error is not None:
        return f"promptkernels._C_cuda does not load: {_import_error}"
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device or driver"
    return None


def facts() -> dict[str, str]:
    """Build facts of the compiled module; empty without it."""
    return {} if _C is None else {key: str(value) for key, value in _C.build_info().items()}


def _run(function: Callable[..., Any], device: torch.device, *arguments: Any) -> None:
    with torch.cuda.device(device):
        function(*arguments, torch.cuda.current_stream().cuda_stream)


_ops = NativeOps(_C, _run)
task_similarity = _ops.task_similarity
task_similarity_backward = _ops.task_similarity_backward
svgd_direction = _ops.svgd_direction
svgd_direction_backward = _ops.svgd_direction_backward
compose_prompts = _ops.compose_prompts
compose_prompts_backward = _ops.compose_prompts_backward
prepend_prompts = _ops.prepend_prompts
merge_task_vectors = _ops.merge_task_vectors
merge_task_vectors_backward = _ops.merge_task_vectors_backward
select_group = _ops.select_group
