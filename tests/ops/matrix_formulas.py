"""The operations in matrix form, for sizes that loops cannot serve; torch's autograd differentiates them."""

from __future__ import annotations

import torch
from torch import Tensor


def cosine(x: Tensor, reference: Tensor) -> Tensor:
    """(T, D) -> (T, T)."""
    rows = x - reference
    rows = rows / rows.norm(dim=1, keepdim=True)
    return rows @ rows.T


def svgd(x: Tensor, scores: Tensor, h: float) -> Tensor:
    """(M, D), (M, D) -> (M, D) at the bandwidth h."""
    rows = x - x.mean(0)
    gram = rows @ rows.T
    squared = gram.diagonal()[:, None] + gram.diagonal() - 2 * gram
    kernel = torch.exp(-squared / h)
    return (kernel @ scores + 2 / h * (kernel.sum(1, keepdim=True) * rows - kernel @ rows)) / len(x)


def merge(reference: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    return reference + weights @ (x - reference)


def compose(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
    return shared * torch.einsum("blr,brh->blh", u[task_ids], v[task_ids])
