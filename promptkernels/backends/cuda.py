"""Backend ``cuda``: CUDA C++ kernels on torch's current stream."""

from __future__ import annotations

import torch

try:
    import promptkernels._C_cuda as _C

    _import_error: Exception | None = None
except ImportError as error:
    _C, _import_error = None, error

NAME = "cuda"
DEVICES = ("cuda",)
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


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
