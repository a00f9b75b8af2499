"""Low-rank Hadamard prompts of MPT, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from promptkernels.backends.types import accumulation_type


def check_task_ids(task_ids: Tensor, tasks: int) -> None:
    """Raise `IndexError` for an id outside 0..tasks-1. Reads the ids, so it waits for their device."""
    if task_ids.numel() and task_ids.device.type != "meta":
        low, high = (int(end) for end in task_ids.aminmax())
        if low < 0 or high >= tasks:
            bad = low if low < 0 else high
            raise IndexError(f"task_ids holds {bad}, but valid task ids are 0..{tasks - 1}")


def compose_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
    check_task_ids(task_ids, u.shape[0])
    acc = accumulation_type(shared, u, v)
    per_task = shared.to(acc) * (u.to(acc) @ v.to(acc))
    return per_task.index_select(0, task_ids)


def compose_prompts_backward(
    grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    check_task_ids(task_ids, u.shape[0])
    acc = accumulation_type(shared, u, v)
    shared, u, v = shared.to(acc), u.to(acc), v.to(acc)
    per_task = grad.new_zeros((u.shape[0], *shared.shape), dtype=acc).index_add_(0, task_ids, grad.to(acc))
    d_product = per_task * shared
    return (per_task * (u @ v)).sum(0), d_product @ v.mT, u.mT @ d_product


def prepend_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
    return torch.cat([compose_prompts(shared, u, v, task_ids).to(input_embeds.dtype), input_embeds], dim=1)
