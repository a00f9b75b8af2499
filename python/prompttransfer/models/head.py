"""Keep the output layer out of bfloat16: logits near 20 are an eighth apart in bfloat16, so choices would tie."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


def keep_float32(model: nn.Module) -> None:
    """Compute a model's logits in float32 even under autocast, if its output layer has float32 weights."""
    head = model.get_output_embeddings()
    if isinstance(head, nn.Linear) and head.weight.dtype == torch.float32 and not is_kept(head):
        head.forward = partial(_in_float32, head.forward)


def is_kept(module: nn.Module) -> bool:
    """Whether a module is an output layer whose weights must stay float32."""
    forward = vars(module).get("forward")
    return isinstance(forward, partial) and forward.func is _in_float32


def _in_float32(forward: Callable[[Tensor], Any], hidden: Tensor) -> Any:
    with torch.autocast(hidden.device.type, enabled=False):
        # A slice of positions would become a batched product, which reads the weights once for each row.
        return forward(hidden.float().contiguous())
