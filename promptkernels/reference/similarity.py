"""Similarity of task vectors, in plain torch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from promptkernels.backends.types import accumulation_type
from promptkernels.reference.results import needed

Gram = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]


def task_vectors(prompts: Tensor, reference: Tensor | None, scale: Tensor | None, acc: torch.dtype) -> Tensor:
    vectors = prompts.to(acc)
    if reference is not None:
        vectors = vectors - reference.to(acc)
    if scale is not None:
        vectors = vectors * scale.to(acc).unsqueeze(-1)
    return vectors


def _rows(vectors: Tensor, metric: str) -> Tensor:
    """The rows that a metric compares: whole vectors, or their means over tokens."""
    return vectors.flatten(1) if metric == "cosine" else vectors.mean(dim=1)


def gram(left: Tensor, right: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Dot products of rows with those of ``right``, or with each other, and the norms of both."""
    left_norm = torch.linalg.vector_norm(left, dim=1)
    if right is None:
        return left @ left.T, left_norm, left_norm.clone()
    return left @ right.T, left_norm, torch.linalg.vector_norm(right, dim=1)


def of_rows(
    left: Tensor, right: Tensor | None, metric: str, eps: float, gram: Gram = gram
) -> tuple[Tensor, Tensor, Tensor]:
    """Similarity and norms of rows, in their type. ``gram`` may return its results in a wider type."""
    similarity, left_norm, right_norm = gram(left, right)
    if metric != "token_mean_dot":
        similarity = similarity / left_norm.clamp_min(eps).unsqueeze(1) / right_norm.clamp_min(eps)
        if right is None:
            similarity.diagonal().masked_fill_((left_norm > eps) & left_norm.isfinite(), 1.0)
    return similarity.to(left.dtype), left_norm.to(left.dtype), right_norm.to(left.dtype)


def task_similarity(
    prompts: Tensor,
    reference: Tensor | None,
    others: Tensor | None,
    scale: Tensor | None,
    metric: str,
    eps: float,
    gram: Gram = gram,
) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulation_type(prompts, reference, others, scale)
    left = _rows(task_vectors(prompts, reference, scale, acc), metric)
    right = None if others is None else _rows(task_vectors(others, reference, None, acc), metric)
    return of_rows(left, right, metric, eps, gram)


def task_similarity_z(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulation_type(prompts, reference, others, scale)
    left = task_vectors(prompts, reference, scale, acc)
    right = left if others is None else task_vectors(others, reference, None, acc)
    products = torch.einsum("ilh,jlh->ijl", left, right)
    # Divide by the largest product, because squares of small products would be 0 in float32. z is 0 if all are 0.
    largest = products.abs().amax(-1, keepdim=True)
    products = products / torch.where(largest == 0, 1.0, largest)
    z = products.sum(-1) / torch.linalg.vector_norm(products, dim=-1).clamp_min(1.0)
    return (*task_similarity(prompts, reference, others, scale, "cosine", eps), z)


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
    """With C = diag(a) V U^T diag(b): dV = W U + diag(p) V, W = a Gamma b, p = -a^2 sum_j Gamma C; likewise for U."""
    acc = similarity.dtype
    grad = grad.to(acc)
    vectors = task_vectors(prompts, reference, scale, acc)
    other_vectors = vectors if others is None else task_vectors(others, reference, None, acc)
    left, right = _rows(vectors, metric), _rows(other_vectors, metric)
    if metric == "token_mean_dot":
        weights, left_pull, right_pull = grad, torch.zeros_like(left_norm), torch.zeros_like(right_norm)
    else:
        # A zero row gets no gradient: the true one would have the size 1/eps.
        a = torch.where(left_norm > eps, 1 / left_norm, 0.0)
        b = torch.where(right_norm > eps, 1 / right_norm, 0.0)
        grad = torch.where((a.unsqueeze(1) > 0) & (b > 0), grad, 0.0)
        weights = grad * a.unsqueeze(1) * b
        left_pull = -(grad * similarity).sum(1) * a**2
        right_pull = -(grad * similarity).sum(0) * b**2

    def per_token(rows: Tensor, like: Tensor) -> Tensor:
        if metric == "cosine":
            return rows.view_as(like)
        return (rows / like.shape[1]).unsqueeze(1).expand_as(like)

    d_left = weights @ right + left_pull.unsqueeze(1) * left
    d_right = weights.T @ left + right_pull.unsqueeze(1) * right
    if others is None:
        d_left = d_left + d_right
    d_others = None if others is None else per_token(d_right, other_vectors)
    d_vectors = per_token(d_left, vectors)
    d_prompts = d_vectors if scale is None else d_vectors * scale.to(acc).unsqueeze(-1)
    d_reference = -d_prompts.sum(0) - (0 if d_others is None else d_others.sum(0)) if needs[1] else None
    d_scale = (d_vectors * task_vectors(prompts, reference, None, acc)).sum(-1) if needs[3] else None
    return needed((d_prompts, d_reference, d_others, d_scale), needs, grad)
