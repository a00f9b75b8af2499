"""The operations as their papers write them: loops over tasks, particles and tokens, in float64, nothing fused.

Arguments are arrays or tensors. torch is not imported, so that a wheel can be tested where it is not installed.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np


def _np(values) -> np.ndarray | None:
    if values is None:
        return None
    return np.asarray(values.detach().double().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def _vectors(prompts, reference, scale):
    out = []
    for t in range(len(prompts)):
        vector = prompts[t] - (0 if reference is None else reference)
        out.append(vector if scale is None else scale[t][:, None] * vector)
    return out


def _cosine(a: np.ndarray, b: np.ndarray, eps: float) -> float:
    return float(a @ b / (max(math.sqrt(a @ a), eps) * max(math.sqrt(b @ b), eps)))


def task_similarity(prompts, reference=None, others=None, scale=None, metric="cosine", eps=1e-8) -> np.ndarray:
    prompts, reference, others, scale = map(_np, (prompts, reference, others, scale))
    left = _vectors(prompts, reference, scale)
    right = left if others is None else _vectors(others, reference, None)
    out = np.zeros((len(left), len(right)))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            if metric == "cosine":
                out[i, j] = _cosine(a.ravel(), b.ravel(), eps)
            elif metric == "token_mean_cosine":
                out[i, j] = _cosine(a.mean(0), b.mean(0), eps)
            else:  # DTVG: (1/r^2) (sum_i v_i)^T (sum_j v_j)
                out[i, j] = a.sum(0) @ b.sum(0) / a.shape[0] ** 2
    return out


def sign_flip_z(prompts, reference=None, others=None, scale=None) -> np.ndarray:
    """sum_l p_l / sqrt(sum_l p_l^2), p_l the dot product of the task vectors of token l."""
    prompts, reference, others, scale = map(_np, (prompts, reference, others, scale))
    left = _vectors(prompts, reference, scale)
    right = left if others is None else _vectors(others, reference, None)
    out = np.zeros((len(left), len(right)))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            p = [float(a[token] @ b[token]) for token in range(len(a))]
            if any(p):
                out[i, j] = sum(p) / math.sqrt(sum(value**2 for value in p))
    return out


def bandwidth(distances: np.ndarray, rule: float | str) -> float:
    """h from the full (M, M) matrix of distances, as in each published implementation."""
    m = len(distances)
    if not isinstance(rule, str):
        return rule
    if rule == "liu2016":  # authors' numpy code: h_c^2 = median(d^2) / (2 log(n+1)), kernel exp(-d^2 / (2 h_c^2))
        return 2 * np.median(distances**2) / (2 * np.log(m + 1))
    if rule == "numpyro":
        return np.median(distances) ** 2 / np.log(m) + np.finfo(np.float64).eps if m > 1 else 1.0
    return np.median(distances[np.tril_indices(m, -1)]) ** 2 / np.log(m)


def svgd_direction(particles, scores, rule: float | str) -> tuple[np.ndarray, np.ndarray, float]:
    """phi, K, h for flat particles (M, D), term by term; needs at least two distinct particles."""
    x, s = _np(particles), _np(scores)
    m = len(x)
    distances = np.array([[math.sqrt(((x[i] - x[j]) ** 2).sum()) for j in range(m)] for i in range(m)])
    h = bandwidth(distances, rule)
    phi, kernel = np.zeros_like(x), np.zeros((m, m))
    for i in range(m):
        for j in range(m):
            kernel[i, j] = math.exp(-((x[i] - x[j]) ** 2).sum() / h)
            phi[i] += (kernel[i, j] * s[j] + 2 / h * (x[i] - x[j]) * kernel[i, j]) / m
    return phi, kernel, h


def compose_prompts(shared, u, v, task_ids) -> np.ndarray:
    shared, u, v = map(_np, (shared, u, v))
    out = np.zeros((len(task_ids), *shared.shape))
    for b, t in enumerate(task_ids.tolist()):
        for token in range(shared.shape[0]):
            for unit in range(shared.shape[1]):
                out[b, token, unit] = shared[token, unit] * sum(
                    u[t, token, r] * v[t, r, unit] for r in range(u.shape[2])
                )
    return out


def merge_task_vectors(reference, prompts, scale=None, weights=None) -> np.ndarray:
    reference, prompts, scale, weights = map(_np, (reference, prompts, scale, weights))
    out = reference.copy()
    for t in range(len(prompts)):
        for token in range(len(reference)):
            factor = (1 if weights is None else weights[t]) * (1 if scale is None else scale[t, token])
            out[token] += factor * (prompts[t, token] - reference[token])
    return out


def select_group(similarity: np.ndarray, target: int) -> set[int]:
    """DTVG's group S' by enumeration: every prefix of the ranking, its consistency as a mean over ordered pairs."""
    sources = [s for s in range(len(similarity)) if s != target and similarity[s, target] >= 0]
    ranking = sorted(sources, key=lambda s: (-similarity[s, target], s))
    best, best_consistency = set(), -math.inf
    for m in range(1, len(ranking) + 1):
        pairs = list(permutations(ranking[:m], 2))
        consistency = sum(similarity[i, j] for i, j in pairs) / len(pairs) if pairs else 0.0
        if consistency > best_consistency:
            best, best_consistency = set(ranking[:m]), consistency
    return best
