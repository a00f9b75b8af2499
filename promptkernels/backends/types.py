"""Element types that every backend supports, and the type in which they are accumulated."""

from __future__ import annotations

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def accumulation_type(*tensors: Tensor | None) -> torch.dtype:
    """float64 if any floating argument is float64, else float32."""
    for tensor in tensors:
        if tensor is not None and tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32
