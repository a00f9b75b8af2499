"""SVGD: Gram matrix; one program per kernel matrix for distances, bandwidth, K and weights; then one mix."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from promptkernels.backends.many_rows import in_plain_torch
from promptkernels.backends.many_rows import svgd_direction as svgd_of_many
from promptkernels.backends.triton_kernels.gram import Gram, Rows, gram, gram_offset, mix, sum_parts
from promptkernels.backends.triton_kernels.launch import ACC, contiguous, launch
from promptkernels.backends.types import accumulation_type
from promptkernels.reference.svgd import svgd_direction_backward as backward_of_many

# A kernel matrix is one tile of one program. 128 rows in float64 need 128 KB of shared memory, which many GPUs lack,
# and in float32 they spill registers. So torch's own operations are used beyond 64 particles.
MOST_PARTICLES = 64
_TILE = 4096  # elements to sum at a time; more would spill registers


@triton.jit
def load_gram(partials, i, j, inside, n, parts, symmetric: tl.constexpr, block_rows: tl.constexpr,
              block_parts: tl.constexpr, size: tl.constexpr):  # fmt: skip
    """Sums (size, size) over parts at flat i, j."""
    offsets = gram_offset(i, j, n, symmetric, block_rows)
    return tl.reshape(sum_parts(partials, offsets, inside, parts, n * n, block_parts), [size, size])


@triton.jit
def two_middles(values, counted, count, acc: tl.constexpr, integer: tl.constexpr, bits: tl.constexpr):
    """The two middle values of the counted, nonnegative values; equal if there is a single middle value.

    The bits of such floats sort like integers. The k-th smallest is the largest integer with at most k values below it,
    determined bit by bit.
    """
    most: tl.constexpr = (1 << bits) - 1
    order = tl.where(counted & (values == values), values.to(integer, bitcast=True), most)  # NaN comes last
    low = tl.zeros([1], dtype=integer)
    high = tl.zeros([1], dtype=integer)
    for step in range(bits):
        bit = tl.full([1], 1, integer) << (bits - 1 - step)
        below_low = tl.sum(tl.sum((order < (low | bit)[:, None]).to(tl.int32), 1), 0)
        below_high = tl.sum(tl.sum((order < (high | bit)[:, None]).to(tl.int32), 1), 0)
        low = tl.where(below_low <= (count - 1) // 2, low | bit, low)
        high = tl.where(below_high <= count // 2, high | bit, high)
    return low.to(acc, bitcast=True), high.to(acc, bitcast=True)


@triton.jit
def repulsion(kernel, eye, strength):
    """strength (diag(K 1) - K)"""
    others = tl.sum(tl.where(eye, 0.0, kernel), 1)
    return strength * tl.where(eye, others[:, None], -kernel)


@triton.jit(do_not_specialize=["n", "parts"])
def kernel_matrix_kernel(
    kernel, h, repulsions, means, partials, n, parts, bandwidth: tl.float64, divisor: tl.float64, epsilon: tl.float64,
    convention: tl.constexpr, acc: tl.constexpr, integer: tl.constexpr, bits: tl.constexpr, size: tl.constexpr,
    block_rows: tl.constexpr, block_parts: tl.constexpr,
):  # fmt: skip
    """Program per group: K (n, n), h, and the weights of particles and scores for phi."""
    group = tl.program_id(0).to(tl.int64)
    flat = tl.arange(0, size * size)
    i, j = flat // size, flat % size
    products = load_gram(
        partials + group * parts * n * n, i, j, (i < n) & (j < n), n, parts, True, block_rows, block_parts, size
    )
    row = tl.arange(0, size)
    eye = row[:, None] == row[None, :]
    inside = (row < n)[:, None] & (row < n)[None, :]
    squares = tl.sum(tl.where(eye, products, 0.0), 1)
    squared = squares[:, None] + squares[None, :] - 2.0 * products
    squared = tl.where(eye | (squared < 0), 0.0, squared).to(acc)
    if convention == "fixed":
        spread = tl.zeros([1], dtype=tl.float64) + bandwidth
    else:
        counted, count = inside, n * n
        if convention == "blackjax":
            counted, count = inside & (row[:, None] < row[None, :]), n * (n - 1) // 2
        low, high = two_middles(squared, counted, count, acc, integer, bits)
        low, high = low.to(tl.float64), high.to(tl.float64)
        if convention == "liu2016":
            spread = (low + high) / 2.0 / divisor
        else:
            middle = (tl.sqrt(low) + tl.sqrt(high)) / 2.0
            spread = middle * middle / divisor + epsilon
    spread = tl.where(spread <= 0, 0.0, spread).to(acc)
    tl.store(h + group + tl.zeros([1], dtype=tl.int32), spread)
    safe = tl.where(spread > 0, spread, 1.0)
    strength = tl.where(spread > 0, 2.0 / (safe * n), 0.0)[:, None]
    near = tl.where((spread > 0)[:, None], tl.exp(-(squared / safe[:, None])), (squared == 0).to(acc))
    near = tl.where(squared == squared, near, squared)
    near = tl.where(inside, near, 0.0)
    at = group * n * n + row[:, None] * n + row[None, :]
    tl.store(kernel + at, near, mask=inside)
    tl.store(repulsions + at, repulsion(near, eye, strength), mask=inside)
    tl.store(means + at, near / n, mask=inside)


@triton.jit(do_not_specialize=["n", "parts"])
def backward_weights_kernel(
    repulsions, pulls, means, kernel, h, grad_x, grad_s, n, parts,
    acc: tl.constexpr, size: tl.constexpr, block_parts: tl.constexpr,
):  # fmt: skip
    """Program per group: the weights of grad and particles for d_particles, and of grad for d_scores."""
    group = tl.program_id(0).to(tl.int64)
    flat = tl.arange(0, size * size)
    i, j = flat // size, flat % size
    valid, skip = (i < n) & (j < n), group * parts * n * n
    g_x = load_gram(grad_x + skip, i, j, valid, n, parts, False, 1, block_parts, size)
    g_s = load_gram(grad_s + skip, i, j, valid, n, parts, False, 1, block_parts, size)
    row = tl.arange(0, size)
    eye = row[:, None] == row[None, :]
    inside = (row < n)[:, None] & (row < n)[None, :]
    at = group * n * n + row[:, None] * n + row[None, :]
    near = tl.load(kernel + at, mask=inside, other=0.0)
    spread = tl.load(h + group + tl.zeros([1], dtype=tl.int32))
    inverse = tl.where(spread > 0, 1.0 / tl.where(spread > 0, spread, 1.0), 0.0)[:, None]
    own = tl.sum(tl.where(eye, g_x, 0.0), 1)
    # own - g_x cancels, so it is computed in float64, like the sums
    d_kernel = g_s / n + 2.0 * inverse.to(tl.float64) / n * (own[:, None] - g_x)
    d_squared = -(d_kernel.to(acc) * near * inverse)
    d_squared += tl.trans(d_squared)
    tl.store(repulsions + at, repulsion(near, eye, 2.0 * inverse / n), mask=inside)
    tl.store(pulls + at, repulsion(d_squared, eye, 2.0), mask=inside)
    tl.store(means + at, near / n, mask=inside)


def _tile(product: Gram, n: int) -> dict[str, int]:
    size = max(16, triton.next_power_of_2(n))
    parts = max(1, min(triton.next_power_of_2(product.parts), _TILE // size**2))
    return {"size": size, "block_parts": parts, "num_warps": 8 if size >= 64 else 4}


def svgd_direction(
    particles: Tensor, scores: Tensor, bandwidth: float, convention: str, per_token: bool
) -> tuple[Tensor, Tensor, Tensor]:
    n, length, _ = particles.shape
    if n > MOST_PARTICLES:
        return in_plain_torch(svgd_of_many, particles, scores, bandwidth, convention, per_token)
    acc = accumulation_type(particles, scores)
    particles, scores = contiguous(particles, scores)
    x, groups = Rows(particles, centre=particles), length if per_token else 1  # only the first row of particles is read
    product = gram(x, None, acc, groups=groups)
    if n == 1 and convention != "fixed":
        bandwidth, convention = 1.0 if convention == "numpyro" else 0.0, "fixed"
    h = torch.empty(groups, dtype=acc, device=particles.device)
    kernel, repulsions, means = (h.new_empty(groups, n, n) for _ in range(3))
    epsilon = torch.finfo(acc).eps if convention == "numpyro" else 0.0
    wide = acc == torch.float64
    launch(
        kernel_matrix_kernel, (groups,),
        kernel, h, repulsions, means, product.partials, n, product.parts,
        bandwidth, math.log(n + 1 if convention == "liu2016" else max(n, 2)), epsilon,
        convention=convention, acc=ACC[acc], integer=tl.int64 if wide else tl.int32, bits=63 if wide else 31,
        block_rows=product.block_rows, **_tile(product, n),
    )  # fmt: skip
    return mix(repulsions, x, means, Rows(scores)), kernel, h


def svgd_direction_backward(
    grad: Tensor,
    particles: Tensor,
    scores: Tensor,
    kernel: Tensor,
    h: Tensor,
    per_token: bool,
) -> tuple[Tensor, Tensor]:
    n, length, _ = particles.shape
    if n > MOST_PARTICLES:
        arguments = (particles, scores, kernel, h, per_token)
        return in_plain_torch(backward_of_many, grad, *arguments)
    acc, groups = kernel.dtype, length if per_token else 1
    grad, particles, scores, kernel, h = contiguous(grad, particles, scores, kernel, h)
    x, g = Rows(particles, centre=particles), Rows(grad)
    grad_x, grad_s = gram(g, x, acc, groups=groups), gram(g, Rows(scores), acc, groups=groups)
    repulsions, pulls, means = (torch.empty_like(kernel) for _ in range(3))
    launch(
        backward_weights_kernel, (groups,),
        repulsions, pulls, means, kernel, h, grad_x.partials, grad_s.partials, n, grad_x.parts,
        acc=ACC[acc], **_tile(grad_x, n),
    )  # fmt: skip
    return mix(repulsions, g, pulls, x), mix(means, g)
