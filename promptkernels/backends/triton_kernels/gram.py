"""Centred Gram matrix and mix, the two primitives of similarity and SVGD.

The centre is subtracted and the scale applied while rows are read. Sums run in the accumulation type within a chunk of
columns and in float64 across chunks; the parts of a Gram matrix are added in a fixed order, without atomics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from promptkernels.backends.triton_kernels.launch import ACC, launch

_PART_COLUMNS = 512  # a program of a Gram matrix reads at least as many columns
_PROGRAMS = (
    640  # wanted of a Gram matrix: at least four for each multiprocessor of today's GPUs, the same on all of them
)
_ADDED_ALONG = 2**17  # numbers of all parts that the kernel after a Gram matrix adds up itself


@dataclass(frozen=True)
class Rows:
    """Row i is ``scale[i, token] * (data[i] - centre)``: data (count, length, hidden), centre one such row, scale
    (count, length); all contiguous."""

    data: Tensor
    centre: Tensor | None = None
    scale: Tensor | None = None

    @property
    def count(self) -> int:
        return self.data.shape[0]

    @property
    def length(self) -> int:
        return self.data.shape[1]

    @property
    def hidden(self) -> int:
        return self.data.shape[2]


def row_block(rows: int) -> int:
    return 16 if rows <= 16 else 32 if rows <= 64 else 64


@triton.jit
def load_rows(
    data, centre, scale, rows, row_mask, columns, column_mask, length, hidden, width, acc: tl.constexpr
):  # fmt: skip
    """A tile of `Rows` of ``width`` columns, 0 outside."""
    mask = row_mask[:, None] & column_mask[None, :]
    value = tl.load(data + rows[:, None].to(tl.int64) * width + columns[None, :], mask=mask, other=0.0).to(acc)
    if centre is not None:
        value -= tl.load(centre + columns, mask=column_mask, other=0.0).to(acc)[None, :]
    if scale is not None:
        token = columns // hidden
        value *= tl.load(scale + rows[:, None] * length + token[None, :], mask=mask, other=0.0).to(acc)
    return tl.where(mask, value, 0.0)


@triton.jit(do_not_specialize=["n", "m", "parts", "part_columns"])
def gram_kernel(
    partials, left_squares, right_squares, x, x_centre, x_scale, y, y_centre, n, m, length, hidden,
    group_columns, parts, part_columns,
    symmetric: tl.constexpr, acc: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Program (group and part, pair of row blocks): partials[group, part] (n, m) and, if wanted, the squared norms."""
    unit = tl.program_id(0)
    group, part = unit // parts, unit % parts
    blocks = tl.cdiv(m, block_rows)
    i_block, j_block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    if symmetric and j_block < i_block:
        return
    i, j = i_block * block_rows + tl.arange(0, block_rows), j_block * block_rows + tl.arange(0, block_rows)
    begin = group * group_columns + part * part_columns
    end = tl.minimum(begin + part_columns, (group + 1) * group_columns)
    width = length * hidden
    total = tl.zeros([block_rows, block_rows], dtype=tl.float64)
    left_total, right_total = tl.zeros([block_rows], dtype=tl.float64), tl.zeros([block_rows], dtype=tl.float64)
    for first in range(begin, end, block_columns):
        columns = first + tl.arange(0, block_columns)
        inside = columns < end
        left = load_rows(x, x_centre, x_scale, i, i < n, columns, inside, length, hidden, width, acc)
        # x against itself is scaled on both sides; other rows never are
        right = load_rows(
            y, y_centre, x_scale if symmetric else None, j, j < m, columns, inside, length, hidden, width, acc
        )
        total += tl.dot(left, tl.trans(right), input_precision="ieee", out_dtype=acc).to(tl.float64)
        if left_squares is not None:
            left_total += tl.sum(left * left, 1).to(tl.float64)
            right_total += tl.sum(right * right, 1).to(tl.float64)
    at = partials + unit.to(tl.int64) * n * m
    tl.store(at + i[:, None] * m + j[None, :], total, mask=(i < n)[:, None] & (j < m)[None, :])
    if left_squares is not None:
        if j_block == 0:
            tl.store(left_squares + unit * n + i, left_total, mask=i < n)
        if i_block == 0:
            tl.store(right_squares + unit * m + j, right_total, mask=j < m)


@triton.jit
def sum_parts(partials, offsets, mask, parts, size, block_parts: tl.constexpr):
    """The sum over parts of partials (parts, size) at flat offsets."""
    total = tl.zeros(offsets.shape, dtype=tl.float64)
    for first in range(0, parts, block_parts):
        part = first + tl.arange(0, block_parts)
        inside = (part < parts)[:, None] & mask[None, :]
        tile = tl.load(partials + part[:, None].to(tl.int64) * size + offsets[None, :], mask=inside, other=0.0)
        total += tl.sum(tile, 0)
    return total


@triton.jit
def gram_offset(i, j, m, symmetric: tl.constexpr, block_rows: tl.constexpr):
    """Where entry (i, j) lies in a part: of x against itself only the blocks on and above the diagonal are written."""
    if symmetric:
        below = i // block_rows > j // block_rows
        i, j = tl.where(below, j, i), tl.where(below, i, j)
    return i * m + j


@dataclass(frozen=True)
class Gram:
    """Partial sums (groups, parts, n, m) in float64, and of the squared norms (parts, n) and (parts, m) if asked."""

    partials: Tensor
    left_squares: Tensor | None
    right_squares: Tensor | None
    symmetric: bool
    block_rows: int

    @property
    def parts(self) -> int:
        return self.partials.shape[1]

    def summed(self) -> Gram:
        """The same with few enough parts for the kernel that adds them up, one or a few programs."""
        if self.partials[0].numel() <= _ADDED_ALONG:
            return self
        left, right = (t if t is None else t.sum(0, keepdim=True) for t in (self.left_squares, self.right_squares))
        return replace(self, partials=self.partials.sum(1, keepdim=True), left_squares=left, right_squares=right)


def gram(x: Rows, y: Rows | None, acc: torch.dtype, *, groups: int = 1, squares: bool = False) -> Gram:
    """Of x against y, or against itself; columns in ``groups`` equal ranges with a matrix each."""
    n, m = x.count, x.count if y is None else y.count
    columns, symmetric, y = x.length * x.hidden // groups, y is None, x if y is None else y
    block = row_block(max(n, m))
    pairs = triton.cdiv(n, block) * triton.cdiv(m, block)
    parts = min(triton.cdiv(columns, _PART_COLUMNS), triton.cdiv(_PROGRAMS, groups * pairs))
    partials = torch.empty((groups, parts, n, m), dtype=torch.float64, device=x.data.device)
    left, right = (partials.new_empty(parts, k) if squares else None for k in (n, m))
    launch(
        gram_kernel, (groups * parts, pairs),
        partials, left, right, x.data, x.centre, x.scale, y.data, y.centre, n, m, x.length, x.hidden,
        columns, parts, triton.cdiv(columns, parts),
        symmetric=symmetric, acc=ACC[acc], block_rows=block, block_columns=_tile_columns(block, acc, squares),
        num_warps=4 if block == 16 else 8, num_stages=2,
    )  # fmt: skip
    return Gram(partials, left, right, symmetric, block).summed()


def _tile_columns(block: int, acc: torch.dtype, squares: bool) -> int:
    """Columns that a program reads at a time: few enough for its registers (tests/ops/test_ahead_of_time.py)."""
    columns = (2048 if acc == torch.float32 else 1024) // block
    return columns // 2 if squares and block == 16 else columns


@triton.jit
def mix_tile(
    total, weights, row_stride, column_stride, rows, row_mask, data, centre, scale, count,
    columns, column_mask, length, hidden, width, acc: tl.constexpr,
):  # fmt: skip
    """total + weights @ rows, on a tile of columns."""
    for first in range(0, count, 16):
        k = first + tl.arange(0, 16)
        at = weights + rows[:, None] * row_stride + k[None, :] * column_stride
        weight = tl.load(at, mask=row_mask[:, None] & (k < count)[None, :], other=0.0)
        z = load_rows(data, centre, scale, k, k < count, columns, column_mask, length, hidden, width, acc)
        total += tl.dot(weight, z, input_precision="ieee", out_dtype=acc)
    return total


@triton.jit(do_not_specialize=["n", "x_count", "y_count"])
def mix_kernel(
    out, weights, x, x_centre, x_count, more_weights, y, y_centre, y_count, n, length, hidden,
    acc: tl.constexpr, block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Program (token and block of columns, block of rows): out = weights[token] @ x + more_weights[token] @ y."""
    blocks = tl.cdiv(hidden, block_columns)
    token, h = tl.program_id(0) // blocks, tl.program_id(0) % blocks * block_columns + tl.arange(0, block_columns)
    rows = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    columns, inside, width = token * hidden + h, h < hidden, length * hidden
    total = tl.zeros([block_rows, block_columns], dtype=acc)
    total = mix_tile(
        total, weights + token * n * x_count, x_count, 1, rows, rows < n, x, x_centre, None, x_count,
        columns, inside, length, hidden, width, acc,
    )  # fmt: skip
    if y is not None:
        total = mix_tile(
            total, more_weights + token * n * y_count, y_count, 1, rows, rows < n, y, y_centre, None, y_count,
            columns, inside, length, hidden, width, acc,
        )  # fmt: skip
    at = out + rows[:, None].to(tl.int64) * width + columns[None, :]
    tl.store(at, total, mask=(rows < n)[:, None] & inside[None, :])


def column_block(hidden: int, rows: int = 16) -> int:
    """Columns of a tile of so many rows: few enough for the registers of a program."""
    return max(16, min(2048 // rows, triton.next_power_of_2(hidden)))


def mix(weights: Tensor, x: Rows, more_weights: Tensor | None = None, y: Rows | None = None) -> Tensor:
    """(n, length, hidden): weights (groups, n, k) times rows, groups 1 or one per token; never scaled."""
    groups, n, _ = weights.shape
    # One group is one long token.
    length, hidden = (x.length, x.hidden) if groups > 1 else (1, x.length * x.hidden)
    out = weights.new_empty((n, x.length, x.hidden))
    block = row_block(n)
    columns = column_block(hidden, block)
    launch(
        mix_kernel, (length * triton.cdiv(hidden, columns), triton.cdiv(n, block)),
        out, weights, x.data, x.centre, x.count, more_weights, None if y is None else y.data,
        None if y is None else y.centre, 0 if y is None else y.count, n, length, hidden,
        acc=ACC[weights.dtype], block_rows=block, block_columns=columns, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out
