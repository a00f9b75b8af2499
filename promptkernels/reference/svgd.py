"""The direction of Stein variational gradient descent, in plain torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from promptkernels.backends.types import accumulation_type


def _median(values: Tensor) -> Tensor:
    """Mean of the two middle values, as in numpy (torch's own median takes the lower one)."""
    ordered = values.sort(dim=-1).values
    n = values.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def _bandwidth(squared: Tensor, bandwidth: float, convention: str) -> Tensor:
    """h in K = exp(-d^2 / h) for squared distances (G, M, M); 0 if the particles have no spread to measure."""
    m = squared.shape[-1]
    if convention == "fixed":
        return squared.new_full(squared.shape[:1], bandwidth)
    if m == 1:
        return squared.new_full(squared.shape[:1], 1.0 if convention == "numpyro" else 0.0)
    if convention == "liu2016":
        return _median(squared.flatten(1)) / math.log(m + 1)
    if convention == "numpyro":
        return _median(squared.flatten(1).sqrt()) ** 2 / math.log(m) + torch.finfo(squared.dtype).eps
    i, j = torch.triu_indices(m, m, 1, device=squared.device)
    return _median(squared[:, i, j].sqrt()) ** 2 / math.log(m)


def _centred(particles: Tensor, acc: torch.dtype) -> Tensor:
    """Differences to particle 0. Any row gives the same distances; one of the particles avoids cancellation."""
    return particles.to(acc) - particles[0].to(acc)


def _groups(rows: Tensor, per_token: bool) -> Tensor:
    """(M, L, H) as one group per kernel: (1, M, L*H), or (L, M, H) with a kernel per token."""
    return rows.transpose(0, 1) if per_token else rows.flatten(1).unsqueeze(0)


def _ungroup(rows: Tensor, like: Tensor, per_token: bool) -> Tensor:
    return rows.transpose(0, 1).contiguous() if per_token else rows.view_as(like)


def _repulsion(kernel: Tensor, h: Tensor) -> Tensor:
    """2 / (h M) (diag(K 1) - K); 0 if the bandwidth is 0."""
    strength = torch.where(h > 0, 2 / (h * kernel.shape[-1]), 0.0)
    return strength[:, None, None] * (torch.diag_embed(kernel.sum(-1)) - kernel)


def squared_distances(x: Tensor) -> Tensor:
    """Squared distances, (G, M, D) -> (G, M, M). Takes differences first, so equal particles are exactly 0 apart."""
    return torch.stack([(x - row).square().sum(-1) for row in x.split(1, dim=-2)], dim=-2)


def svgd_direction(
    particles: Tensor,
    scores: Tensor,
    bandwidth: float,
    convention: str,
    per_token: bool,
    squared_distances: Callable[[Tensor], Tensor] = squared_distances,
) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulation_type(particles, scores)
    x = _groups(_centred(particles, acc), per_token)
    s = _groups(scores.to(acc), per_token)
    squared = squared_distances(x)
    h = _bandwidth(squared, bandwidth, convention)
    spread = h[:, None, None]
    kernel = torch.where(spread > 0, torch.exp(-squared / spread), (squared == 0).to(acc))
    kernel = torch.where(squared.isnan(), squared, kernel)
    phi = kernel @ s / kernel.shape[-1] + _repulsion(kernel, h) @ x
    return _ungroup(phi, particles, per_token), kernel, h


def svgd_direction_backward(
    grad: Tensor,
    particles: Tensor,
    scores: Tensor,
    kernel: Tensor,
    h: Tensor,
    per_token: bool,
) -> tuple[Tensor, Tensor]:
    """Gradient through the kernel and the directions. h is a constant, as in every published implementation."""
    acc = kernel.dtype
    x = _groups(_centred(particles, acc), per_token)
    s, g = _groups(scores.to(acc), per_token), _groups(grad.to(acc), per_token)
    m = kernel.shape[-1]
    repulsion = _repulsion(kernel, h)
    inverse_h = torch.where(h > 0, 1 / h, 0.0)[:, None, None]
    g_x = g @ x.mT
    d_kernel = g @ s.mT / m + 2 / m * inverse_h * (g_x.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) - g_x)
    d_squared = -d_kernel * kernel * inverse_h
    d_squared = d_squared + d_squared.mT
    d_x = repulsion @ g + 2 * (torch.diag_embed(d_squared.sum(-1)) - d_squared) @ x
    return _ungroup(d_x, particles, per_token), _ungroup(kernel @ g / m, particles, per_token)
