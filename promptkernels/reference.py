"""Every operation in plain torch: the oracle of the tests, the fallback of the dispatcher, the peer of the benchmark.

The functions take arguments that the public functions of `promptkernels.ops` have already checked: prompts are (T, L,
H), everything is on one device. They compute in float64 when any floating argument is float64 and in float32 otherwise,
on any device torch knows. Each mirrors one formula; speed is not their aim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptkernels.backends.types import accumulation_type

NAME = "reference"
DEVICES = ("*",)
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def why_unavailable() -> str | None:
    return None


def facts() -> dict[str, str]:
    return {"torch": torch.__version__}


def _needed(gradients: tuple[Tensor | None, ...], needs: list[bool], like: Tensor) -> tuple[Tensor, ...]:
    """An operation returns tensors only, so a gradient nobody asked for is an empty one."""
    return tuple(
        gradient.contiguous() if need else like.new_empty(0) for gradient, need in zip(gradients, needs, strict=True)
    )


# --- similarity -------------------------------------------------------------------------------------------------------


def _task_vectors(prompts: Tensor, reference: Tensor | None, scale: Tensor | None, acc: torch.dtype) -> Tensor:
    vectors = prompts.to(acc)
    if reference is not None:
        vectors = vectors - reference.to(acc)
    if scale is not None:
        vectors = vectors * scale.to(acc).unsqueeze(-1)
    return vectors


def _rows(vectors: Tensor, metric: str) -> Tensor:
    """The rows that a metric compares: whole vectors, or their means over tokens."""
    return vectors.flatten(1) if metric == "cosine" else vectors.mean(dim=1)


def task_similarity(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, metric: str, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulation_type(prompts, reference, others, scale)
    left = _rows(_task_vectors(prompts, reference, scale, acc), metric)
    right = left if others is None else _rows(_task_vectors(others, reference, None, acc), metric)
    left_norm = torch.linalg.vector_norm(left, dim=1)
    right_norm = left_norm.clone() if others is None else torch.linalg.vector_norm(right, dim=1)
    similarity = left @ right.T
    if metric != "token_mean_dot":
        similarity = similarity / left_norm.clamp_min(eps).unsqueeze(1) / right_norm.clamp_min(eps)
        if others is None:
            similarity.diagonal().masked_fill_((left_norm > eps) & left_norm.isfinite(), 1.0)
    return similarity, left_norm, right_norm


def task_similarity_z(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acc = accumulation_type(prompts, reference, others, scale)
    left = _task_vectors(prompts, reference, scale, acc)
    right = left if others is None else _task_vectors(others, reference, None, acc)
    products = torch.einsum("ilh,jlh->ijl", left, right)
    # Divided by the largest: squares of small products would be 0 in float32. z is 0 where all products are.
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
    vectors = _task_vectors(prompts, reference, scale, acc)
    other_vectors = vectors if others is None else _task_vectors(others, reference, None, acc)
    left, right = _rows(vectors, metric), _rows(other_vectors, metric)
    if metric == "token_mean_dot":
        weights, left_pull, right_pull = grad, torch.zeros_like(left_norm), torch.zeros_like(right_norm)
    else:
        # A row without direction has no gradient: its true one would be of the size 1/eps.
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
    d_scale = (d_vectors * _task_vectors(prompts, reference, None, acc)).sum(-1) if needs[3] else None
    return _needed((d_prompts, d_reference, d_others, d_scale), needs, grad)


# --- SVGD -------------------------------------------------------------------------------------------------------------


def _median(values: Tensor) -> Tensor:
    """Mean of the two middle values, as numpy has it (torch's own median takes the lower one)."""
    ordered = values.sort(dim=-1).values
    n = values.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def _bandwidth(squared: Tensor, bandwidth: float, convention: str) -> Tensor:
    """h of K = exp(-d^2 / h) for squared distances (G, M, M); 0 where the convention has no spread to measure."""
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
    """Differences to particle 0: any row gives the same distances, one of the particles without cancellation."""
    return particles.to(acc) - particles[0].to(acc)


def _groups(rows: Tensor, per_token: bool) -> Tensor:
    """(M, L, H) as one group per kernel: (1, M, L*H), or (L, M, H) with a kernel per token."""
    return rows.transpose(0, 1) if per_token else rows.flatten(1).unsqueeze(0)


def _ungroup(rows: Tensor, like: Tensor, per_token: bool) -> Tensor:
    return rows.transpose(0, 1).contiguous() if per_token else rows.view_as(like)


def _repulsion(kernel: Tensor, h: Tensor) -> Tensor:
    """2 / (h M) (diag(K 1) - K), and 0 where the bandwidth vanished."""
    strength = torch.where(h > 0, 2 / (h * kernel.shape[-1]), 0.0)
    return strength[:, None, None] * (torch.diag_embed(kernel.sum(-1)) - kernel)


def svgd_direction(
    particles: Tensor, scores: Tensor, bandwidth: float, convention: str, per_token: bool
) -> tuple[Tensor, Tensor, Tensor]:
    acc = accumulation_type(particles, scores)
    x = _groups(_centred(particles, acc), per_token)
    s = _groups(scores.to(acc), per_token)
    # Differences first: equal particles are exactly 0 apart, wherever they lie.
    squared = torch.stack([(x - row).square().sum(-1) for row in x.split(1, dim=-2)], dim=-2)
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
    """Through the kernel and the directions; the bandwidth h is a constant, as in every published implementation."""
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


# --- Hadamard composition ---------------------------------------------------------------------------------------------


def check_task_ids(task_ids: Tensor, tasks: int) -> None:
    """Raise `IndexError` for an id outside 0..tasks-1; reads the ids, so it waits for their device."""
    if task_ids.numel() and task_ids.device.type != "meta":
        low, high = (int(end) for end in task_ids.aminmax())
        if low < 0 or high >= tasks:
            bad = low if low < 0 else high
            raise IndexError(f"task_ids holds {bad}, but valid task ids are 0..{tasks - 1}")


def compose_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
    check_task_ids(task_ids, u.shape[0])
    acc = accumulation_type(shared, u, v)
    per_task = shared.to(acc) * (u.to(acc) @ v.to(acc))
    return per_task.index_select(0, task_ids)


def compose_prompts_backward(
    grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    check_task_ids(task_ids, u.shape[0])
    acc = accumulation_type(shared, u, v)
    shared, u, v = shared.to(acc), u.to(acc), v.to(acc)
    per_task = grad.new_zeros((u.shape[0], *shared.shape), dtype=acc).index_add_(0, task_ids, grad.to(acc))
    d_product = per_task * shared
    return (per_task * (u @ v)).sum(0), d_product @ v.mT, u.mT @ d_product


def prepend_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
    return torch.cat([compose_prompts(shared, u, v, task_ids).to(input_embeds.dtype), input_embeds], dim=1)


# --- merging and grouping ---------------------------------------------------------------------------------------------


def _merge_terms(
    reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Task vectors (T, L, H), scale (T, L), weights (T,), and which rows are there (T, 1)."""
    acc = accumulation_type(reference, prompts, scale, weights)
    vectors = prompts.to(acc) - reference.to(acc)
    scale = vectors.new_ones(vectors.shape[:2]) if scale is None else scale.to(acc)
    weights = vectors.new_ones(vectors.shape[:1]) if weights is None else weights.to(acc)
    return vectors, scale, weights, (weights != 0).unsqueeze(1)


def merge_task_vectors(reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None) -> Tensor:
    vectors, scale, weights, there = _merge_terms(reference, prompts, scale, weights)
    # A row that is not there must not reach the sum, not even as 0 * inf.
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
    return _needed(gradients, needs, grad)


def select_group(similarity: Tensor, target: int) -> Tensor:
    sim = similarity.to(torch.float64)
    n = sim.shape[0]
    to_target = sim[:, target]
    eligible = to_target >= 0
    eligible[target] = False
    order = torch.where(eligible, to_target, -torch.inf).argsort(descending=True, stable=True)
    ranked = sim[order][:, order].fill_diagonal_(0.0)
    size = torch.arange(1, n + 1, device=sim.device, dtype=sim.dtype)
    pairs = (size * (size - 1)).clamp_min(1)
    consistency = ranked.cumsum(0).cumsum(1).diagonal() / pairs
    consistency = torch.where(eligible[order], consistency, -torch.inf).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
    chosen = (torch.arange(n, device=sim.device) <= consistency.argmax()) & eligible[order]
    chosen = torch.zeros_like(eligible).index_copy_(0, order, chosen)
    chosen[target] = True
    return chosen
