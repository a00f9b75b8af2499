"""Weighted sums of task vectors, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from promptkernels.backends.types import accumulation_type
from promptkernels.reference.results import needed


def _merge_terms(
    reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Task vectors (T, L, H), scale (T, L), weights (T,), and which rows have a nonzero weight (T, 1)."""
    acc = accumulation_type(reference, prompts, scale, weights)
    vectors = prompts.to(acc) - reference.to(acc)
    scale = vectors.new_ones(vectors.shape[:2]) if scale is None else scale.to(acc)
    weights = vectors.new_ones(vectors.shape[:1]) if weights is None else weights.to(acc)
    return vectors, scale, weights, (weights != 0).unsqueeze(1)


def merge_task_vectors(reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None) -> Tensor:
    vectors, scale, weights, there = _merge_terms(reference, prompts, scale, weights)
    # A row of weight 0 must not reach the sum, not even as 0 * inf.
    terms = torch.where(there.unsqueeze(-1), (weights[:, None] * scale).unsqueeze(-1) * vectors, 0.0)
    return (reference.to(vectors.dtype) + terms.sum(0)).contiguous()


def merge_task_vectors_backward(
    grad: Tensor,
    reference: Tensor,
    prompts: Tensor,
    scale: Tensor | None,
    weights: Tensor | None,
    needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    vectors, full_scale, full_weights, there = _merge_terms(reference, prompts, scale, weights)
    grad = grad.to(vectors.dtype)
    factor = torch.where(there, full_weights[:, None] * full_scale, 0.0)
    along = (vectors * grad).sum(-1)
    gradients = (
        grad * (1 - factor.sum(0)).unsqueeze(-1),
        factor.unsqueeze(-1) * grad,
        torch.where(there, full_weights[:, None] * along, 0.0),
        (full_scale * along).sum(1),
    )
    return needed(gradients, needs, grad)
