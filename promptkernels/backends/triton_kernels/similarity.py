"""Similarity of task vectors and its gradients. The formulas are in `promptkernels.reference`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from promptkernels.backends import many_rows
from promptkernels.backends.triton_kernels.gram import (
    Rows,
    column_block,
    gram,
    gram_offset,
    load_rows,
    mix_blocks,
    mix_tile,
    sum_parts,
)
from promptkernels.backends.triton_kernels.launch import ACC, contiguous, launch, or_empty
from promptkernels.backends.types import accumulation_type

# z needs one Gram matrix per token: up to 256 MiB of them; beyond that, plain torch computes a few at a time.
MOST_TOKEN_PRODUCTS = 2**25


@triton.jit
def token_mean_kernel(means, x, centre, scale, length, hidden, acc: tl.constexpr, block_tokens: tl.constexpr,
                      block_columns: tl.constexpr):  # fmt: skip
    """Program (row, block of columns): the mean over tokens."""
    row = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * block_columns + tl.arange(0, block_columns)
    total = tl.zeros([block_tokens, block_columns], dtype=acc)
    for first in range(0, length, block_tokens):
        token = first + tl.arange(0, block_tokens)
        mask = (token < length)[:, None] & (h < hidden)[None, :]
        at = token[:, None] * hidden + h[None, :]
        value = tl.load(x + row * length * hidden + at, mask=mask, other=0.0).to(acc)
        if centre is not None:
            value -= tl.load(centre + at, mask=mask, other=0.0).to(acc)
        if scale is not None:
            value *= tl.load(scale + row * length + token, mask=token < length, other=0.0).to(acc)[:, None]
        total += value
    mean = tl.sum(total.to(tl.float64), 0) / length
    tl.store(means + row * hidden + h, mean.to(acc), mask=h < hidden)


def _token_means(x: Rows, acc: torch.dtype) -> Rows:
    means = torch.empty((x.count, 1, x.hidden), dtype=acc, device=x.data.device)
    columns = column_block(x.hidden)
    launch(
        token_mean_kernel, (x.count, triton.cdiv(x.hidden, columns)),
        means, x.data, x.centre, x.scale, x.length, x.hidden,
        acc=ACC[acc], block_tokens=16, block_columns=columns, num_warps=4,
    )  # fmt: skip
    return Rows(means)


@triton.jit(do_not_specialize=["n", "m", "parts"])
def finish_kernel(
    similarity, left_norm, right_norm, z, partials, left_squares, right_squares, n, m, parts, eps: tl.float64,
    normalise: tl.constexpr, symmetric: tl.constexpr, acc: tl.constexpr, block_rows: tl.constexpr,
    block: tl.constexpr, block_parts: tl.constexpr,
):  # fmt: skip
    """Program per block of entries (i, j): sum the parts and divide by the norms; z if the parts are tokens."""
    entry = tl.program_id(0) * block + tl.arange(0, block)
    inside = entry < n * m
    i, j = entry // m, entry % m
    at = gram_offset(i, j, m, symmetric, block_rows)
    value = sum_parts(partials, at, inside, parts, n * m, block_parts)
    if z is not None:
        squares = sum_parts(partials, at, inside, parts, n * m, block_parts, True)
        zero = squares == 0
        score = tl.where(zero, 0.0, value / tl.sqrt(tl.where(zero, 1.0, squares)))  # NaN stays NaN
        tl.store(z + entry, score.to(acc), mask=inside)
    if symmetric:
        a = sum_parts(partials, i * m + i, inside, parts, n * m, block_parts)
        b = sum_parts(partials, j * m + j, inside, parts, n * m, block_parts)
    else:
        a = sum_parts(left_squares, i, inside, parts, n, block_parts)
        b = sum_parts(right_squares, j, inside, parts, m, block_parts)
    a, b = tl.sqrt(a), tl.sqrt(b)
    tl.store(left_norm + i, a.to(acc), mask=inside & (j == 0))
    tl.store(right_norm + j, b.to(acc), mask=inside & (i == 0))
    if normalise:
        value = value / tl.where(a < eps, eps, a) / tl.where(b < eps, eps, b)  # NaN stays NaN
        if symmetric:
            value = tl.where((i == j) & (a > eps) & (a < float("inf")), 1.0, value)
    tl.store(similarity + entry, value.to(acc), mask=inside)


def task_similarity(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, metric: str, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return _similarity(prompts, reference, others, scale, metric, eps, False)[:3]


def task_similarity_z(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, length, _ = prompts.shape
    if length * n * (prompts if others is None else others).shape[0] > MOST_TOKEN_PRODUCTS:
        return many_rows.in_plain_torch(many_rows.task_similarity_z, prompts, reference, others, scale, eps)
    return _similarity(prompts, reference, others, scale, "cosine", eps, True)


def _similarity(
    prompts: Tensor,
    reference: Tensor | None,
    others: Tensor | None,
    scale: Tensor | None,
    metric: str,
    eps: float,
    with_z: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    acc = accumulation_type(prompts, reference, others, scale)
    prompts, reference, others, scale = contiguous(prompts, reference, others, scale)
    x, y = Rows(prompts, reference, scale), None if others is None else Rows(others, reference)
    if metric != "cosine":
        x, y = _token_means(x, acc), None if y is None else _token_means(y, acc)
    product = gram(x, y, acc, squares=y is not None, by_token=with_z)
    _, parts, n, m = product.partials.shape
    similarity = torch.empty((n, m), dtype=acc, device=prompts.device)
    left_norm, right_norm = similarity.new_empty(n), similarity.new_empty(m)
    z = torch.empty_like(similarity) if with_z else None
    launch(
        finish_kernel, (triton.cdiv(n * m, 64),),
        similarity, left_norm, right_norm, z, product.partials, product.left_squares, product.right_squares,
        n, m, parts, eps,
        normalise=metric != "token_mean_dot", symmetric=product.symmetric, acc=ACC[acc], block_rows=product.block_rows,
        block=64, block_parts=32, num_warps=4,
    )  # fmt: skip
    return similarity, left_norm, right_norm, z


@triton.jit
def row_weights(
    weights, pull_of, grad, similarity, own_norm, other_norm, row, count, row_step, step, m, eps,
    normalise: tl.constexpr, symmetric: tl.constexpr, acc: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One row (or column, by the steps) of the weights, if they have an output, and its pull."""
    own = tl.load(own_norm + row + tl.zeros([1], dtype=tl.int32)).to(tl.float64)
    # A zero row gets no gradient: the true one would have the size 1/eps.
    direction = own > eps
    divisor = tl.where(direction, own, 1.0)
    pull = tl.zeros([1], dtype=tl.float64)
    for first in range(0, count, block):
        k = first + tl.arange(0, block)
        inside = k < count
        at = row * row_step + k * step
        g = tl.load(grad + at, mask=inside, other=0.0).to(acc)
        along = g
        if normalise:
            along *= tl.load(similarity + at, mask=inside, other=0.0)
        if symmetric:
            back = tl.load(grad + k * m + row, mask=inside, other=0.0).to(acc)
            g += back
            if normalise:
                along += back * tl.load(similarity + k * m + row, mask=inside, other=0.0)
        if normalise:
            other = tl.load(other_norm + k, mask=inside, other=0.0).to(tl.float64)
            there = direction & (other > eps)
            g = tl.where(there, g / divisor.to(acc) / tl.where(there, other, 1.0).to(acc), 0.0)
            pull -= tl.sum(tl.where(there, along, 0.0).to(tl.float64), 0)
        if weights is not None:
            tl.store(weights + at, g, mask=inside)
    tl.store(pull_of + row + tl.zeros([1], dtype=tl.int32), (pull / divisor / divisor).to(acc))


@triton.jit(do_not_specialize=["n", "m"])
def weights_kernel(
    weights, left_pull, right_pull, grad, similarity, left_norm, right_norm, n, m, eps: tl.float64,
    normalise: tl.constexpr, symmetric: tl.constexpr, acc: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Program per row of the left side, then (for other rows) per row of the right side.

    d_left = weights @ right + left_pull * left, d_right = weights^T @ left + right_pull * right. For rows against
    themselves, both sides are combined.
    """
    row = tl.program_id(0)
    if row < n:
        row_weights(
            weights, left_pull, grad, similarity, left_norm, right_norm, row, m, m, 1, m, eps,
            normalise, symmetric, acc, block,
        )  # fmt: skip
    else:
        row_weights(
            None, right_pull, grad, similarity, right_norm, left_norm, row - n, n, 1, m, m, eps,
            normalise, symmetric, acc, block,
        )  # fmt: skip


@triton.jit(do_not_specialize=["n", "k", "row_stride", "column_stride"])
def gradient_kernel(
    out, dots, weights, row_stride, column_stride, pull, own, own_centre, own_scale, mixed, mixed_centre, mixed_scale,
    x, centre, scale, n, k, length, hidden,
    means: tl.constexpr, acc: tl.constexpr, split: tl.constexpr, block_rows: tl.constexpr, block_inner: tl.constexpr,
    once: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Program (token and block of columns, block of rows): d_prompts, and the parts of d_scale.

    ``own`` and ``mixed`` are the rows that the metric compared, with a single token if they are means. ``x``: prompts.
    """
    blocks = tl.cdiv(hidden, block_columns)
    token, h = tl.program_id(0) // blocks, tl.program_id(0) % blocks * block_columns + tl.arange(0, block_columns)
    rows = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    row_mask, inside, width = rows < n, h < hidden, length * hidden
    columns = token * hidden + h
    compared_columns, compared_width, compared_length = columns, width, length
    if means:
        compared_columns, compared_width, compared_length = h, hidden, 1
    total = tl.load(pull + rows, mask=row_mask, other=0.0)[:, None] * load_rows(
        own, own_centre, own_scale, rows, row_mask, compared_columns, inside, compared_length, hidden, compared_width,
        acc,
    )  # fmt: skip
    total = mix_tile(
        total, weights, row_stride, column_stride, rows, row_mask, mixed, mixed_centre, mixed_scale, k,
        compared_columns, inside, compared_length, hidden, compared_width, acc, split, block_inner, once,
    )  # fmt: skip
    if means:
        total /= length
    if dots is not None:
        vector = load_rows(x, centre, None, rows, row_mask, columns, inside, length, hidden, width, acc)
        dot = tl.sum((total * vector).to(tl.float64), 1)
        tl.store(dots + (rows * length + token) * blocks + tl.program_id(0) % blocks, dot, mask=row_mask)
    if scale is not None:
        total *= tl.load(scale + rows * length + token, mask=row_mask, other=0.0).to(acc)[:, None]
    at = out + rows[:, None].to(tl.int64) * width + columns[None, :]
    tl.store(at, total, mask=row_mask[:, None] & inside[None, :])


def _gradient(
    x: Rows, own: Rows, mixed: Rows, weights: Tensor, pull: Tensor, means: bool, scale_wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """d_prompts of x, and d_scale. weights: (x.count, mixed.count), possibly a transposed view."""
    length, hidden = x.length, x.hidden
    if x.scale is None and mixed.scale is None and not means:  # treat all tokens as one long token
        length, hidden = 1, length * hidden
    constants = mix_blocks(weights.dtype, x.data.device, hidden, x.count, mixed.count)
    blocks = triton.cdiv(hidden, constants["block_columns"])
    out = weights.new_empty(x.data.shape)
    dots = weights.new_empty((x.count, length, blocks), dtype=torch.float64) if scale_wanted else None
    launch(
        gradient_kernel, (length * blocks, triton.cdiv(x.count, constants["block_rows"])),
        out, dots, weights, *weights.stride(), pull, own.data, own.centre, own.scale,
        mixed.data, mixed.centre, mixed.scale, x.data, x.centre, x.scale, x.count, mixed.count, length, hidden,
        means=means, **constants,
    )  # fmt: skip
    return out, None if dots is None else dots.sum(-1).to(weights.dtype)


def task_similarity_backward(
    grad: Tensor,
    prompts: Tensor,
    reference: Tensor | None,
    others: Tensor | None,
    scale: Tensor | None,
    metric: str,
    eps: float,
    similarity: Tensor,
    left_norm: Tensor,
    right_norm: Tensor,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc, means, itself = similarity.dtype, metric != "cosine", others is None
    grad, prompts, reference, others, scale = contiguous(grad, prompts, reference, others, scale)
    similarity, left_norm, right_norm = contiguous(similarity, left_norm, right_norm)
    x = left = Rows(prompts, reference, scale)
    y = right = x if itself else Rows(others, reference)
    if means:
        left = _token_means(x, acc)
        right = left if itself else _token_means(y, acc)
    n, m = similarity.shape
    weights, left_pull, right_pull = torch.empty_like(similarity), left_norm.new_empty(n), left_norm.new_empty(m)
    launch(
        weights_kernel, (n if itself else n + m,),
        weights, left_pull, right_pull, grad, similarity, left_norm, right_norm, n, m, eps,
        normalise=metric != "token_mean_dot", symmetric=itself, acc=ACC[acc], block=128, num_warps=4,
    )  # fmt: skip
    d_prompts = d_others = d_scale = d_reference = None
    if needs[0] or needs[1] or needs[3]:
        d_prompts, d_scale = _gradient(x, left, right, weights, left_pull, means, needs[3])
    if not itself and (needs[1] or needs[2]):
        d_others, _ = _gradient(y, right, left, weights.T, right_pull, means, False)
    if needs[1]:
        d_reference = -d_prompts.sum(0) if itself else -(d_prompts.sum(0) + d_others.sum(0))
    gradients = (d_prompts, d_reference, d_others, d_scale)
    return or_empty(tuple(g if need else None for g, need in zip(gradients, needs, strict=True)), acc, prompts.device)
