"""The one rule for types: accumulate in float64 when any floating argument is float64, in float32 otherwise."""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_type(*tensors: Tensor | None) -> torch.dtype:
    for tensor in tensors:
        if tensor is not None and tensor.dtype == torch.float64:
            return torch.float64
    return torch.float32
