"""Merging of task vectors: one launch forward, one or two backward."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from promptkernels.backends.triton_kernels.gram import column_block
from promptkernels.backends.triton_kernels.launch import ACC, contiguous, launch, or_empty, wanted
from promptkernels.backends.types import accumulation_type

_ROWS = 8  # fixed, so that a row of weight 0 changes no bit of the sum


@triton.jit
def load_weights(weights, rows, tasks, acc: tl.constexpr):
    """Weights of a block of rows; 0 outside, and 1 without weights."""
    if weights is not None:
        return tl.load(weights + rows, mask=rows < tasks, other=0.0).to(acc)
    return (rows < tasks).to(acc)


@triton.jit(do_not_specialize=["tasks"])
def merge_kernel(
    out, reference, prompts, scale, weights, tasks, length, hidden,
    acc: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Program per token and block of columns."""
    blocks, width = tl.cdiv(hidden, block_columns), length * hidden
    token, h = tl.program_id(0) // blocks, tl.program_id(0) % blocks * block_columns + tl.arange(0, block_columns)
    column, inside = token * hidden + h, h < hidden
    start = tl.load(reference + column, mask=inside, other=0.0).to(acc)
    total = tl.zeros([block_rows, block_columns], dtype=acc)
    for first in range(0, tasks, block_rows):
        row = first + tl.arange(0, block_rows)
        weight = load_weights(weights, row, tasks, acc)[:, None]
        # An unselected row must not reach the sum, not even as 0 * inf.
        mask = (weight != 0) & inside[None, :]
        at = row[:, None].to(tl.int64) * width + column[None, :]
        vector = tl.load(prompts + at, mask=mask, other=0.0).to(acc) - start[None, :]
        if scale is not None:
            vector *= tl.load(scale + row * length + token, mask=row < tasks, other=0.0).to(acc)[:, None]
        total += tl.where(mask, weight * vector, 0.0)
    tl.store(out + column, start + tl.sum(total, 0), mask=inside)


def merge_task_vectors(reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None) -> Tensor:
    acc = accumulation_type(reference, prompts, scale, weights)
    reference, prompts, scale, weights = contiguous(reference, prompts, scale, weights)
    tasks, length, hidden = prompts.shape
    out = torch.empty((length, hidden), dtype=acc, device=prompts.device)
    if scale is None:  # without scale, treat all tokens as one long token
        length, hidden = 1, length * hidden
    columns = max(16, min(256, triton.next_power_of_2(hidden)))
    launch(
        merge_kernel, (length * triton.cdiv(hidden, columns),),
        out, reference, prompts, scale, weights, tasks, length, hidden,
        acc=ACC[acc], block_rows=_ROWS, block_columns=columns, num_warps=4,
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["tasks"])
def backward_kernel(
    d_reference, d_prompts, d_scale, dots, grad, reference, prompts, scale, weights, tasks, length, hidden,
    acc: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Program (token, block of rows): its part of every gradient; dots (tasks, length) = <grad, prompt - reference>."""
    token = tl.program_id(0)
    row = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    row_mask = row < tasks
    weight = load_weights(weights, row, tasks, acc)
    factor = weight
    if scale is not None:
        factor *= tl.load(scale + row * length + token, mask=row_mask & (weight != 0), other=0.0).to(acc)
    kept = tl.zeros([1], dtype=tl.float64) + 1.0
    if d_reference is not None:
        for first in range(0, tasks, block_rows):
            k = first + tl.arange(0, block_rows)
            each = load_weights(weights, k, tasks, acc)
            if scale is not None:
                each *= tl.load(scale + k * length + token, mask=(k < tasks) & (each != 0), other=0.0).to(acc)
            kept -= tl.sum(each.to(tl.float64), 0)
    along = tl.zeros([block_rows, block_columns], dtype=acc)
    for first in range(0, hidden, block_columns):
        h = first + tl.arange(0, block_columns)
        inside = h < hidden
        mask = row_mask[:, None] & inside[None, :]
        column = token * hidden + h
        at = row[:, None].to(tl.int64) * length * hidden + column[None, :]
        g = tl.load(grad + column, mask=inside, other=0.0).to(acc)
        if d_prompts is not None:
            tl.store(d_prompts + at, factor[:, None] * g[None, :], mask=mask)
        if d_reference is not None:  # every block of rows writes the same values
            tl.store(d_reference + column, g * kept.to(acc), mask=inside)
        if d_scale is not None or dots is not None:
            start = tl.load(reference + column, mask=inside, other=0.0).to(acc)
            vector = tl.load(prompts + at, mask=mask, other=0.0).to(acc) - start[None, :]
            along += tl.where(mask, vector * g[None, :], 0.0)
    dot = tl.sum(along.to(tl.float64), 1)
    if d_scale is not None:
        value = tl.where(weight != 0, dot * weight.to(tl.float64), 0.0)
        tl.store(d_scale + row * length + token, value.to(acc), mask=row_mask)
    if dots is not None:
        tl.store(dots + row * length + token, dot, mask=row_mask)


@triton.jit
def weights_gradient_kernel(d_weights, dots, scale, length, acc: tl.constexpr, block: tl.constexpr):
    """Program per row: d_weights = sum over tokens of scale * dots."""
    row = tl.program_id(0)
    total = tl.zeros([1], dtype=tl.float64)
    for first in range(0, length, block):
        token = first + tl.arange(0, block)
        value = tl.load(dots + row * length + token, mask=token < length, other=0.0)
        if scale is not None:
            value *= tl.load(scale + row * length + token, mask=token < length, other=0.0).to(tl.float64)
        total += tl.sum(value, 0)
    tl.store(d_weights + row + tl.zeros([1], dtype=tl.int32), total.to(acc))


def merge_task_vectors_backward(
    grad: Tensor,
    reference: Tensor,
    prompts: Tensor,
    scale: Tensor | None,
    weights: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulation_type(reference, prompts, scale, weights)
    grad, reference, prompts, scale, weights = contiguous(grad, reference, prompts, scale, weights)
    tasks, length, hidden = prompts.shape
    outs = tuple(
        wanted(need, like, acc, prompts.device)
        for need, like in zip(needs, (reference, prompts, scale, weights), strict=True)
    )
    d_reference, d_prompts, d_scale, d_weights = outs
    dots = None if d_weights is None else d_weights.new_empty((tasks, length), dtype=torch.float64)
    launch(
        backward_kernel, (length, triton.cdiv(tasks, _ROWS)),
        d_reference, d_prompts, d_scale, dots, grad, reference, prompts, scale, weights, tasks, length, hidden,
        acc=ACC[acc], block_rows=_ROWS, block_columns=column_block(hidden), num_warps=4,
    )  # fmt: skip
    if d_weights is not None:
        launch(
            weights_gradient_kernel, (tasks,),
            d_weights, dots, scale, length, acc=ACC[acc], block=128, num_warps=4,
        )  # fmt: skip
    return or_empty(outs, acc, prompts.device)
