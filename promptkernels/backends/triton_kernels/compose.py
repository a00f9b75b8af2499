"""MPT's prompts: composed directly into the batch in one launch; the backward pass sums per task, in two launches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from promptkernels.backends.triton_kernels.launch import ACC, contiguous, launch
from promptkernels.backends.types import accumulation_type
from promptkernels.reference.compose import check_task_ids

_ROWS = 8
_SUMMED_COLUMNS, _SUMMED_ROWS = 512, 32  # tile sizes for summing the gradients of u and v


@triton.jit
def low_rank(u, v, task, token, token_mask, h, h_mask, length, rank, hidden, acc: tl.constexpr):
    """A tile of u[task] @ v[task]."""
    total = tl.zeros([token.shape[0], h.shape[0]], dtype=acc)
    for r in range(rank):
        left = tl.load(u + (task * length + token) * rank + r, mask=token_mask, other=0.0).to(acc)
        right = tl.load(v + (task * rank + r) * hidden + h, mask=h_mask, other=0.0).to(acc)
        total += left[:, None] * right[None, :]
    return total


@triton.jit
def assert_task(task, tasks):
    tl.device_assert((task >= 0) & (task < tasks), "task_ids holds a value outside 0..tasks-1")


@triton.jit(do_not_specialize=["tasks", "text"], debug=True)
def compose_kernel(
    out, shared, u, v, task_ids, embeds, tasks, length, rank, hidden, text,
    acc: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Program (batch row and block of its rows, block of columns): rows of the prompt, or of the text."""
    prompt_blocks, text_blocks = tl.cdiv(length, block_rows), tl.cdiv(text, block_rows)
    batch = (tl.program_id(0) // (prompt_blocks + text_blocks)).to(tl.int64)
    block = tl.program_id(0) % (prompt_blocks + text_blocks)
    h = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    out += batch * (length + text) * hidden
    if block < prompt_blocks:
        task = tl.load(task_ids + batch).to(tl.int64)
        assert_task(task, tasks)
        row = block * block_rows + tl.arange(0, block_rows)
        mask = (row < length)[:, None] & (h < hidden)[None, :]
        at = row[:, None] * hidden + h[None, :]
        value = tl.load(shared + at, mask=mask, other=0.0).to(acc)
        value *= low_rank(u, v, task, row, row < length, h, h < hidden, length, rank, hidden, acc)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)
    elif embeds is not None:
        row = (block - prompt_blocks) * block_rows + tl.arange(0, block_rows)
        mask = (row < text)[:, None] & (h < hidden)[None, :]
        at = row[:, None] * hidden + h[None, :]
        tl.store(out + length * hidden + at, tl.load(embeds + batch * text * hidden + at, mask=mask), mask=mask)


def _check_here(task_ids: Tensor, tasks: int) -> None:
    """Check ids on the CPU. On a GPU the kernels assert, because reading the ids would wait for it."""
    if task_ids.device.type == "cpu":
        check_task_ids(task_ids, tasks)


def _compose(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, embeds: Tensor | None) -> Tensor:
    _check_here(task_ids, u.shape[0])
    acc = accumulation_type(shared, u, v)
    shared, u, v, task_ids, embeds = contiguous(shared, u, v, task_ids, embeds)
    (length, hidden), (tasks, _, rank), batch = shared.shape, u.shape, task_ids.shape[0]
    text = 0 if embeds is None else embeds.shape[1]
    dtype = acc if embeds is None else embeds.dtype
    out = torch.empty((batch, length + text, hidden), dtype=dtype, device=shared.device)
    columns = max(16, min(256, triton.next_power_of_2(hidden)))
    if batch > 0:
        launch(
            compose_kernel,
            (batch * (triton.cdiv(length, _ROWS) + triton.cdiv(text, _ROWS)), triton.cdiv(hidden, columns)),
            out, shared, u, v, task_ids, embeds, tasks, length, rank, hidden, text,
            acc=ACC[acc], block_rows=_ROWS, block_columns=columns, num_warps=4, sanitize_overflow=False,
        )  # fmt: skip
    return out


def compose_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
    return _compose(shared, u, v, task_ids, None)


def prepend_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
    return _compose(shared, u, v, task_ids, input_embeds)


@triton.jit(do_not_specialize=["batch", "tasks", "grad_stride"], debug=True)
def task_sums_kernel(
    sums, grad, grad_stride, task_ids, batch, tasks, length, hidden,
    acc: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Program (task and block of tokens, block of columns): sum of the gradient over the batch rows of one task."""
    blocks = tl.cdiv(length, block_rows)
    task = (tl.program_id(0) // blocks).to(tl.int64)
    token = tl.program_id(0) % blocks * block_rows + tl.arange(0, block_rows)
    h = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    mask = (token < length)[:, None] & (h < hidden)[None, :]
    at = token[:, None] * hidden + h[None, :]
    total = tl.zeros([block_rows, block_columns], dtype=acc)
    for row in range(batch):
        named = tl.load(task_ids + row)
        assert_task(named, tasks)
        if named == task:
            total += tl.load(grad + tl.cast(row, tl.int64) * grad_stride + at, mask=mask, other=0.0).to(acc)
    tl.store(sums + task * length * hidden + at, total, mask=mask)


@triton.jit
def shared_gradient(
    d_shared, sums, u, v, block, tasks, length, rank, hidden,
    acc: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """d_shared = sum_t sums_t * (u_t @ v_t), on one block."""
    blocks = tl.cdiv(hidden, block_columns)
    token = block // blocks * block_rows + tl.arange(0, block_rows)
    h = block % blocks * block_columns + tl.arange(0, block_columns)
    mask = (token < length)[:, None] & (h < hidden)[None, :]
    at = token[:, None] * hidden + h[None, :]
    total = tl.zeros([block_rows, block_columns], dtype=acc)
    for step in range(tasks):
        task = tl.cast(step, tl.int64)
        product = low_rank(u, v, task, token, token < length, h, h < hidden, length, rank, hidden, acc)
        total += tl.load(sums + task * length * hidden + at, mask=mask, other=0.0) * product
    tl.store(d_shared + at, total, mask=mask)


@triton.jit
def u_gradient(
    d_u, sums, shared, v, block, length, rank, hidden,
    acc: tl.constexpr, block_rows: tl.constexpr, summed_columns: tl.constexpr,
):  # fmt: skip
    """d_u[t, l, r] = sum_h sums * shared * v[t, r], on a block of tokens of one task."""
    blocks = tl.cdiv(length, block_rows)
    task = (block // blocks).to(tl.int64)
    token = block % blocks * block_rows + tl.arange(0, block_rows)
    for r in range(rank):
        total = tl.zeros([block_rows, summed_columns], dtype=acc)
        for first in range(0, hidden, summed_columns):
            h = first + tl.arange(0, summed_columns)
            mask = (token < length)[:, None] & (h < hidden)[None, :]
            at = token[:, None] * hidden + h[None, :]
            value = tl.load(sums + task * length * hidden + at, mask=mask, other=0.0)
            value *= tl.load(shared + at, mask=mask, other=0.0).to(acc)
            value *= tl.load(v + (task * rank + r) * hidden + h, mask=h < hidden, other=0.0).to(acc)[None, :]
            total += value
        total_of_rows = tl.sum(total.to(tl.float64), 1)
        tl.store(d_u + (task * length + token) * rank + r, total_of_rows.to(acc), mask=token < length)


@triton.jit
def v_gradient(
    d_v, sums, shared, u, block, length, rank, hidden,
    acc: tl.constexpr, summed_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """d_v[t, r, h] = sum_l sums * shared * u[t, l, r], on a block of columns of one task."""
    blocks = tl.cdiv(hidden, block_columns)
    task = (block // blocks).to(tl.int64)
    h = block % blocks * block_columns + tl.arange(0, block_columns)
    for r in range(rank):
        total = tl.zeros([summed_rows, block_columns], dtype=acc)
        for first in range(0, length, summed_rows):
            token = first + tl.arange(0, summed_rows)
            mask = (token < length)[:, None] & (h < hidden)[None, :]
            at = token[:, None] * hidden + h[None, :]
            value = tl.load(sums + task * length * hidden + at, mask=mask, other=0.0)
            value *= tl.load(shared + at, mask=mask, other=0.0).to(acc)
            left = tl.load(u + (task * length + token) * rank + r, mask=token < length, other=0.0).to(acc)
            total += value * left[:, None]
        total_of_columns = tl.sum(total.to(tl.float64), 0)
        tl.store(d_v + (task * rank + r) * hidden + h, total_of_columns.to(acc), mask=h < hidden)


@triton.jit(do_not_specialize=["tasks", "shared_programs", "u_programs"])
def factor_gradients_kernel(
    d_shared, d_u, d_v, sums, shared, u, v, tasks, length, rank, hidden, shared_programs, u_programs,
    acc: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
    summed_rows: tl.constexpr, summed_columns: tl.constexpr,
):  # fmt: skip
    """Three gradients from the same sums: the first programs compute d_shared, the next d_u, the rest d_v."""
    program = tl.program_id(0)
    if program < shared_programs:
        shared_gradient(
            d_shared, sums, u, v, program, tasks, length, rank, hidden, acc, block_rows, block_columns
        )  # fmt: skip
    elif program < shared_programs + u_programs:
        u_gradient(
            d_u, sums, shared, v, program - shared_programs, length, rank, hidden, acc, block_rows, summed_columns
        )  # fmt: skip
    else:
        v_gradient(
            d_v, sums, shared, u, program - shared_programs - u_programs, length, rank, hidden, acc, summed_rows,
            block_columns,
        )  # fmt: skip


def compose_prompts_backward(
    grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    _check_here(task_ids, u.shape[0])
    acc = accumulation_type(shared, u, v)
    shared, u, v, task_ids = contiguous(shared, u, v, task_ids)
    (length, hidden), (tasks, _, rank) = shared.shape, u.shape
    if grad.stride(2) != 1 or grad.stride(1) != hidden:  # rows of a longer sequence are read in place
        grad = grad.contiguous()
    d_shared, d_u, d_v = (torch.empty(t.shape, dtype=acc, device=t.device) for t in (shared, u, v))
    sums = d_shared.new_empty(tasks, length, hidden)
    columns = max(16, min(128, triton.next_power_of_2(hidden)))
    token_blocks, column_blocks = triton.cdiv(length, _ROWS), triton.cdiv(hidden, columns)
    config = {"acc": ACC[acc], "block_rows": _ROWS, "block_columns": columns, "num_warps": 4}
    launch(
        task_sums_kernel, (tasks * token_blocks, column_blocks),
        sums, grad, grad.stride(0), task_ids, task_ids.shape[0], tasks, length, hidden,
        **config, sanitize_overflow=False,
    )  # fmt: skip
    programs = token_blocks * column_blocks, tasks * token_blocks, tasks * column_blocks
    launch(
        factor_gradients_kernel, (sum(programs),),
        d_shared, d_u, d_v, sums, shared, u, v, tasks, length, rank, hidden, *programs[:2],
        summed_rows=_SUMMED_ROWS, summed_columns=max(16, min(_SUMMED_COLUMNS, triton.next_power_of_2(hidden))),
        **config,
    )  # fmt: skip
    return d_shared, d_u, d_v
