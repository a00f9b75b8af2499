"""Similarity and SVGD with torch's matrix products, for more rows than a block of the GPU kernels supports.

The formulas are those of the reference with a different Gram matrix: the centred rows are cut into chunks of columns,
and the chunks' Gram matrices are added in float64. Called through `in_plain_torch`, the functions are as accurate as
the kernels and, like them, never wait for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from promptkernels.backends.types import accumulation_type
from promptkernels.reference import similarity, svgd

TOKEN_PRODUCTS = 2**22  # values of the per-token Gram matrices in memory at once: 32 MiB
COLUMNS = 2048  # per chunk; at least the number of rows, so that the Gram matrices stay smaller than the rows


# Settings that may round float32 products to TF32 or bfloat16. Separate since torch 2.9.
_PRODUCTS = [
    products
    for products in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    if hasattr(products, "fp32_precision")
]


def _process_setting() -> str | None:
    """torch's old process-wide setting; None if it disagrees with the separate settings."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch raises if they disagree
        return None


@contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 matrix products in float32, whatever either interface of torch has set for the process."""
    before, separate = _process_setting(), [products.fp32_precision for products in _PRODUCTS]
    torch.set_float32_matmul_precision("highest")  # makes both interfaces agree
    try:
        yield
    finally:
        if before is not None:
            torch.set_float32_matmul_precision(before)
        for products, value in zip(_PRODUCTS, separate, strict=True):
            products.fp32_precision = "none"  # follows `torch.backends.fp32_precision`
            if products.fp32_precision != value:
                products.fp32_precision = value


def in_plain_torch(function: Callable[..., Any], first: Tensor, *arguments: Any) -> Any:
    """Run torch's operations in place of a kernel, and like it without gradient, autocast or TF32."""
    with torch.no_grad(), torch.autocast(first.device.type, enabled=False), full_precision():
        return function(first, *arguments)


def products(left: Tensor, right: Tensor) -> Tensor:
    """(G, n, D) and (G, m, D) -> left @ right^T, (G, n, m) float64."""
    width = min(max(COLUMNS, left.shape[-2], right.shape[-2]), left.shape[-1])
    chunks = -(-left.shape[-1] // width)

    def cut(rows: Tensor) -> Tensor:
        return pad(rows, (0, chunks * width - rows.shape[-1])).unflatten(-1, (chunks, width)).transpose(1, 2)

    left_chunks = cut(left)
    right_chunks = left_chunks if right is left else cut(right)
    return (left_chunks @ right_chunks.mT).sum(1, dtype=torch.float64)


def _with_lengths(products: Tensor, left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    if right is None:
        left_norm = products.diagonal().sqrt()
        return products, left_norm, left_norm.clone()
    left_norm, right_norm = (torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64) for rows in (left, right))
    return products, left_norm, right_norm


def gram(left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Products and lengths of rows for their similarity, in float64."""
    group = left.unsqueeze(0)
    return _with_lengths(products(group, group if right is None else right.unsqueeze(0))[0], left, right)


def squared_distances(x: Tensor) -> Tensor:
    """Squared distances of centred rows, (G, M, D) -> (G, M, M), in the type of x."""
    dots = products(x, x)
    norms = dots.diagonal(dim1=-2, dim2=-1)
    squared = (norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * dots).clamp_min(0)
    squared.diagonal(dim1=-2, dim2=-1).zero_()
    return squared.to(x.dtype)


task_similarity = partial(similarity.task_similarity, gram=gram)
svgd_direction = partial(svgd.svgd_direction, squared_distances=squared_distances)


def task_similarity_z(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulation_type(prompts, reference, others, scale)
    left = similarity.task_vectors(prompts, reference, scale, acc)
    right = left if others is None else similarity.task_vectors(others, reference, None, acc)
    dots, squares = (left.new_zeros(left.shape[0], right.shape[0], dtype=torch.float64) for _ in range(2))
    at_once = max(1, TOKEN_PRODUCTS // dots.numel())
    for tokens in range(0, left.shape[1], at_once):
        x = left[:, tokens : tokens + at_once].transpose(0, 1)
        y = x if others is None else right[:, tokens : tokens + at_once].transpose(0, 1)
        per_token = products(x, y)
        dots += per_token.sum(0)
        squares += per_token.square().sum(0)
    z = torch.where(squares == 0, 0.0, dots / squares.sqrt())
    left_rows, right_rows = left.flatten(1), None if others is None else right.flatten(1)
    saved = similarity.of_rows(left_rows, right_rows, "cosine", eps, lambda *rows: _with_lengths(dots, *rows))
    return (*saved, z.to(acc))
