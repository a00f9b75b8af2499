"""Centred Gram matrix and mix, the two primitives of similarity and SVGD.

The centre is subtracted and the scale applied while rows are read. Sums run in the accumulation type within a chunk of
columns and in float64 across chunks; the parts of a Gram matrix are added in a fixed order, without atomics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from promptkernels.backends.triton_kernels.launch import ACC, launch, splits

_PART_COLUMNS = 512  # smallest number of columns per program of a Gram matrix
_PROGRAMS = 768  # target number of programs per Gram matrix: six per multiprocessor of a large GPU, which run at once
_ADDED_ALONG = 2**17  # largest number of values in all parts for the next kernel to sum itself


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


def row_block(rows: int, split: bool) -> int:
    """Rows of a tile. Without tensor cores, a tile of 64 rows needs so many registers that it pays only for 64 rows."""
    return 16 if rows <= 16 else 32 if rows <= (32 if split else 64) else 64


@triton.jit
def load_rows(
    data, centre, scale, rows, row_mask, columns, column_mask, length, hidden, width, acc: tl.constexpr
):  # fmt: skip
    """A tile of `Rows` of ``width`` columns. Columns outside are 0, and rows outside are arbitrary."""
    mask = row_mask[:, None] & column_mask[None, :]
    value = tl.load(data + rows[:, None].to(tl.int64) * width + columns[None, :], mask=mask, other=0.0).to(acc)
    if centre is not None:
        value -= tl.load(centre + columns, mask=column_mask, other=0.0).to(acc)[None, :]
    if scale is not None:
        token = columns // hidden
        value *= tl.load(scale + rows[:, None] * length + token[None, :], mask=mask, other=0.0).to(acc)
    return value


@triton.jit
def high_part(x):
    """The bits of float32 numbers that fit in TF32."""
    return (x.to(tl.int32, bitcast=True) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def product(a, b, acc: tl.constexpr, split: tl.constexpr):
    """a @ b. ``split``: three TF32 products, about as accurate as float32, without the product of the low parts."""
    if split:
        a_high, b_high = high_part(a), high_part(b)
        small = tl.dot(a - a_high, b_high, input_precision="tf32")
        small = tl.dot(a_high, b - b_high, small, input_precision="tf32")
        small = tl.where(small == small, small, 0.0)  # NaN from inf - inf; the next product has the inf or NaN itself
        return tl.dot(a_high, b_high, small, input_precision="tf32")
    else:
        return tl.dot(a, b, input_precision="ieee", out_dtype=acc)


@triton.jit(do_not_specialize=["n", "m", "parts", "part_blocks"])
def gram_kernel(
    partials, left_squares, right_squares, x, x_centre, x_scale, y, y_centre, n, m, length, hidden,
    group_columns, parts, part_blocks,
    symmetric: tl.constexpr, single: tl.constexpr, acc: tl.constexpr, split: tl.constexpr,
    block_rows: tl.constexpr, block_columns: tl.constexpr,
):  # fmt: skip
    """Program (group and part, pair of row blocks): partials[group, part] (n, m) and, if needed, the squared norms.

    A part consists of whole blocks of columns, so that the compiler knows the alignment of its addresses.
    """
    unit = tl.program_id(0)
    group, part = unit // parts, unit % parts
    blocks = tl.cdiv(m, block_rows)
    i_block, j_block = tl.program_id(1) // blocks, tl.program_id(1) % blocks
    if symmetric and j_block < i_block:
        return
    i, j = i_block * block_rows + tl.arange(0, block_rows), j_block * block_rows + tl.arange(0, block_rows)
    begin, end = group * group_columns, (group + 1) * group_columns
    first_block = part * part_blocks
    last_block = tl.minimum(first_block + part_blocks, tl.cdiv(group_columns, block_columns))
    width = length * hidden
    total = tl.zeros([block_rows, block_rows], dtype=tl.float64)
    left_total, right_total = tl.zeros([block_rows], dtype=tl.float64), tl.zeros([block_rows], dtype=tl.float64)
    for block in range(first_block, last_block):
        columns = begin + block * block_columns + tl.arange(0, block_columns)
        inside = columns < end
        left = load_rows(x, x_centre, x_scale, i, i < n, columns, inside, length, hidden, width, acc)
        if single:
            right = left
        else:  # x against itself is scaled on both sides; other rows are never scaled
            right = load_rows(
                y, y_centre, x_scale if symmetric else None, j, j < m, columns, inside, length, hidden, width, acc
            )
        total += product(left, tl.trans(right), acc, split).to(tl.float64)
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
def sum_parts(partials, offsets, mask, parts, size, block_parts: tl.constexpr, squared: tl.constexpr = False):
    """Sum over parts of partials (parts, size), or of their squares, at flat offsets."""
    total = tl.zeros(offsets.shape, dtype=tl.float64)
    for first in range(0, parts, block_parts):
        part = first + tl.arange(0, block_parts)
        inside = (part < parts)[:, None] & mask[None, :]
        tile = tl.load(partials + part[:, None].to(tl.int64) * size + offsets[None, :], mask=inside, other=0.0)
        total += tl.sum(tile * tile if squared else tile, 0)
    return total


@triton.jit
def gram_offset(i, j, m, symmetric: tl.constexpr, block_rows: tl.constexpr):
    """Offset of entry (i, j) in a part. For x against itself, only blocks on and above the diagonal are written."""
    if symmetric:
        below = i // block_rows > j // block_rows
        i, j = tl.where(below, j, i), tl.where(below, i, j)
    return i * m + j


@dataclass(frozen=True)
class Gram:
    """Partial sums (groups, parts, n, m) in float64, and of the squared norms (parts, n) and (parts, m) on request."""

    partials: Tensor
    left_squares: Tensor | None
    right_squares: Tensor | None
    symmetric: bool
    block_rows: int

    @property
    def parts(self) -> int:
        return self.partials.shape[1]

    def summed(self) -> Gram:
        """Reduce the parts to a number that the next kernel, with one or a few programs, can sum."""
        if self.partials[0].numel() <= _ADDED_ALONG:
            return self
        left, right = (t if t is None else t.sum(0, keepdim=True) for t in (self.left_squares, self.right_squares))
        return replace(self, partials=self.partials.sum(1, keepdim=True), left_squares=left, right_squares=right)


def gram(
    x: Rows, y: Rows | None, acc: torch.dtype, *, groups: int = 1, squares: bool = False, by_token: bool = False
) -> Gram:
    """Gram matrices of x against y, or against itself. ``groups`` cuts the columns into equal ranges, one matrix each.

    Without groups, the parts of the columns may be tokens (``by_token``).
    """
    n, m = x.count, x.count if y is None else y.count
    symmetric, y = y is None, x if y is None else y
    ranges = x.length if by_token else groups
    columns = x.length * x.hidden // ranges
    split = splits(acc, x.data.device)
    block = row_block(max(n, m), split)
    pairs = triton.cdiv(n, block) * triton.cdiv(m, block)
    tile = _tile(block, acc, split, squares, x.scale is not None)
    blocks = triton.cdiv(columns, tile["block_columns"])
    wanted = 1 if by_token else triton.cdiv(_PROGRAMS, ranges * pairs)
    part_blocks = max(triton.cdiv(blocks, wanted), _PART_COLUMNS // tile["block_columns"])
    parts = triton.cdiv(blocks, part_blocks)
    partials = torch.empty((ranges, parts, n, m), dtype=torch.float64, device=x.data.device)
    left, right = (partials.new_empty(ranges * parts, k) if squares else None for k in (n, m))
    launch(
        gram_kernel, (ranges * parts, pairs),
        partials, left, right, x.data, x.centre, x.scale, y.data, y.centre, n, m, x.length, x.hidden,
        columns, parts, part_blocks,
        symmetric=symmetric, single=symmetric and pairs == 1, acc=ACC[acc], split=split, block_rows=block, **tile,
    )  # fmt: skip
    if by_token:
        return Gram(partials.view(1, ranges, n, m), left, right, symmetric, block)
    return Gram(partials, left, right, symmetric, block).summed()


def _tile(block: int, acc: torch.dtype, split: bool, squares: bool, scaled: bool) -> dict[str, int]:
    """Columns that a program reads at a time, limited by its registers (tests/ops/test_ahead_of_time.py).

    A split product has one warp per 16 rows; more warps would repeat the same work.
    """
    if split:
        return {"block_columns": 32, "num_warps": block // 16, "num_stages": 4 if block < 64 else 3}
    tight = squares or scaled or acc == torch.float64
    columns = (2048 if acc == torch.float32 else 1024) // (max(block, 32) if tight else block)
    return {"block_columns": columns, "num_warps": 4 if block == 16 else 8, "num_stages": 2}


@triton.jit
def weighted(
    weights, row_stride, column_stride, rows, row_mask, k, data, centre, scale, count,
    columns, column_mask, length, hidden, width, acc: tl.constexpr, split: tl.constexpr,
):  # fmt: skip
    """weights[rows, k] @ rows k, on a tile of columns."""
    z = load_rows(data, centre, scale, k, k < count, columns, column_mask, length, hidden, width, acc)
    at = weights + rows[:, None] * row_stride + k[None, :] * column_stride
    weight = tl.load(at, mask=row_mask[:, None] & (k < count)[None, :], other=0.0)
    return product(weight, tl.where((k < count)[:, None], z, 0.0), acc, split)


@triton.jit
def mix_tile(
    total, weights, row_stride, column_stride, rows, row_mask, data, centre, scale, count,
    columns, column_mask, length, hidden, width,
    acc: tl.constexpr, split: tl.constexpr, block_inner: tl.constexpr, once: tl.constexpr,
):  # fmt: skip
    """total + weights @ rows, on a tile of columns; ``once`` if one block holds all the rows."""
    k = tl.arange(0, block_inner)
    if once:
        total += weighted(
            weights, row_stride, column_stride, rows, row_mask, k, data, centre, scale, count,
            columns, column_mask, length, hidden, width, acc, split,
        )  # fmt: skip
    else:
        for first in range(0, count, block_inner):
            total += weighted(
                weights, row_stride, column_stride, rows, row_mask, first + k, data, centre, scale, count,
                columns, column_mask, length, hidden, width, acc, split,
            )  # fmt: skip
    return total


@triton.jit(do_not_specialize=["n", "x_count", "y_count"])
def mix_kernel(
    out, weights, x, x_centre, x_count, more_weights, y, y_centre, y_count, n, length, hidden,
    acc: tl.constexpr, split: tl.constexpr, block_rows: tl.constexpr, block_inner: tl.constexpr, once: tl.constexpr,
    block_columns: tl.constexpr,
):  # fmt: skip
    """Program (token and block of columns, block of rows): out = weights[token] @ x + more_weights[token] @ y."""
    blocks = tl.cdiv(hidden, block_columns)
    token, h = tl.program_id(0) // blocks, tl.program_id(0) % blocks * block_columns + tl.arange(0, block_columns)
    rows = tl.program_id(1) * block_rows + tl.arange(0, block_rows)
    columns, inside, width = token * hidden + h, h < hidden, length * hidden
    total = tl.zeros([block_rows, block_columns], dtype=acc)
    total = mix_tile(
        total, weights + token * n * x_count, x_count, 1, rows, rows < n, x, x_centre, None, x_count,
        columns, inside, length, hidden, width, acc, split, block_inner, once,
    )  # fmt: skip
    if y is not None:
        total = mix_tile(
            total, more_weights + token * n * y_count, y_count, 1, rows, rows < n, y, y_centre, None, y_count,
            columns, inside, length, hidden, width, acc, split, block_inner, once,
        )  # fmt: skip
    at = out + rows[:, None].to(tl.int64) * width + columns[None, :]
    tl.store(at, total, mask=(rows < n)[:, None] & inside[None, :])


def column_block(hidden: int, rows: int = 16) -> int:
    """Columns of a tile with this many rows, limited by the registers of a program."""
    return max(16, min(2048 // rows, triton.next_power_of_2(hidden)))


def mix_blocks(acc: torch.dtype, device: torch.device, hidden: int, rows: int, inner: int) -> dict[str, Any]:
    """Compile-time arguments of a kernel with `mix_tile`: weights (rows, inner) times rows of ``hidden`` columns."""
    split = splits(acc, device)
    block, block_inner = row_block(rows, split), row_block(inner, split) if acc == torch.float32 else 16
    few = split and block <= 32 and inner <= block_inner
    if inner > block_inner:  # a loop, which keeps two blocks in shared memory
        block_inner = min(32, block_inner)
    return {
        "acc": ACC[acc],
        "split": split,
        "block_rows": block,
        "block_inner": block_inner,
        "once": inner <= block_inner and acc == torch.float32,  # float64 would spill registers
        "block_columns": max(16, min(128, triton.next_power_of_2(hidden))) if few else column_block(hidden, block),
        "num_warps": 4,
        "num_stages": 2,
    }


def mix(weights: Tensor, x: Rows, more_weights: Tensor | None = None, y: Rows | None = None) -> Tensor:
    """Weights (groups, n, k) times rows, (n, length, hidden). One group, or one per token; rows are not scaled."""
    groups, n, _ = weights.shape
    # A single group is treated as one long token.
    length, hidden = (x.length, x.hidden) if groups > 1 else (1, x.length * x.hidden)
    out = weights.new_empty((n, x.length, x.hidden))
    blocks = mix_blocks(weights.dtype, out.device, hidden, n, max(x.count, 0 if y is None else y.count))
    launch(
        mix_kernel, (length * triton.cdiv(hidden, blocks["block_columns"]), triton.cdiv(n, blocks["block_rows"])),
        out, weights, x.data, x.centre, x.count, more_weights, None if y is None else y.data,
        None if y is None else y.centre, 0 if y is None else y.count, n, length, hidden, **blocks,
    )  # fmt: skip
    return out
