"""Every backend against the formulas of the papers, written out in loops, on small cases."""

from __future__ import annotations

import formulas
import numpy as np
import pytest
import torch
from cases import compose_inputs, ids, rand

import promptkernels as pk

SMALL = [(1, 1, 1), (2, 3, 4), (4, 2, 5), (7, 3, 3)]
F64 = torch.float64


def assert_allclose(got, want, **tolerance):
    np.testing.assert_allclose(got.cpu(), want, **tolerance)


@pytest.mark.parametrize("metric", ["cosine", "token_mean_cosine", "token_mean_dot"])
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_task_similarity(backend, shape, metric):
    prompts, others = rand(*shape, seed=1, dtype=F64), rand(3, *shape[1:], seed=2, dtype=F64)
    reference, scale = rand(*shape[1:], seed=3, dtype=F64), rand(*shape[:2], seed=4, dtype=F64)
    for ref, other, factor in [
        (None, None, None),
        (reference, None, scale),
        (reference, others, scale),
        (None, others, None),
    ]:
        got = pk.task_similarity(prompts, ref, other, metric=metric, scale=factor)
        assert_allclose(got, formulas.task_similarity(prompts, ref, other, factor, metric), rtol=1e-10, atol=1e-12)


def test_flat_prompts_are_one_long_token(backend):
    prompts, reference = rand(5, 12, dtype=F64), rand(12, seed=1, dtype=F64)
    for metric in ("cosine", "token_mean_cosine", "token_mean_dot"):
        want = formulas.task_similarity(prompts[:, None], reference[None], metric=metric)
        assert_allclose(pk.task_similarity(prompts, reference, metric=metric), want, rtol=1e-10)
    scale = rand(5, 1, seed=2, dtype=F64)
    want = formulas.task_similarity(prompts[:, None], reference[None], scale=scale)
    assert_allclose(pk.task_similarity(prompts, reference, scale=scale), want, rtol=1e-10)


@pytest.mark.parametrize("rule", [0.7, "liu2016", "numpyro", "blackjax"])
@pytest.mark.parametrize("shape", [(2, 1, 3), (3, 2, 2), (6, 3, 4), (9, 1, 5)], ids=str)
def test_svgd_direction(backend, shape, rule):
    particles, scores = rand(*shape, seed=1, dtype=F64), rand(*shape, seed=2, dtype=F64)
    phi, (kernel, h) = pk.svgd_direction(particles, scores, bandwidth=rule, return_kernel=True)
    want_phi, want_kernel, want_h = formulas.svgd_direction(particles.flatten(1), scores.flatten(1), rule)
    assert_allclose(h, want_h, rtol=1e-10)
    assert_allclose(kernel, want_kernel, rtol=1e-9)
    assert_allclose(phi.flatten(1), want_phi, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", [2.0, "liu2016", "numpyro", "blackjax"])
def test_svgd_per_token_is_one_direction_per_token(backend, rule):
    particles, scores = rand(5, 3, 4, seed=1, dtype=F64), rand(5, 3, 4, seed=2, dtype=F64)
    phi, (kernel, h) = pk.svgd_direction(particles, scores, bandwidth=rule, per_token=True, return_kernel=True)
    assert kernel.shape == (3, 5, 5) and h.shape == (3,)
    for token in range(3):
        want_phi, want_kernel, want_h = formulas.svgd_direction(particles[:, token], scores[:, token], rule)
        assert_allclose(phi[:, token], want_phi, rtol=1e-9, atol=1e-11)
        assert_allclose(kernel[token], want_kernel, rtol=1e-9)
        assert_allclose(h[token], want_h, rtol=1e-10)


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1, 1), (4, 3, 5, 1, 7, 2), (5, 2, 3, 3, 4, 0), (0, 2, 3, 1, 8, 4)], ids=str
)
def test_compose_and_prepend(backend, shape):
    shared, u, v, task_ids, embeds = compose_inputs(shape, F64)
    want = formulas.compose_prompts(shared, u, v, task_ids)
    assert_allclose(pk.compose_prompts(shared, u, v, task_ids), want, rtol=1e-10)
    got = pk.prepend_prompts(shared, u, v, task_ids, embeds)
    assert_allclose(got, np.concatenate([want, embeds.cpu()], axis=1), rtol=1e-10)


@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_merge_task_vectors(backend, shape):
    reference, prompts = rand(*shape[1:], dtype=F64), rand(*shape, seed=1, dtype=F64)
    scale, weights = rand(*shape[:2], seed=2, dtype=F64), rand(shape[0], seed=3, dtype=F64)
    for factors in [(None, None), (scale, None), (None, weights), (scale, weights)]:
        want = formulas.merge_task_vectors(reference, prompts, *factors)
        assert_allclose(pk.merge_task_vectors(reference, prompts, *factors), want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("tasks", [1, 2, 3, 5, 9, 27])
def test_select_group(backend, tasks):
    for seed in range(30):
        vectors = rand(tasks, 4, seed=seed, dtype=F64) + 0.3
        target = int(ids(1, tasks, seed=seed))
        similarity = vectors @ vectors.T
        got = set(pk.select_group(similarity, target).nonzero().flatten().tolist())
        assert got == formulas.select_group(similarity.cpu().numpy(), target) | {target}


def test_select_group_edges(backend):
    """No friend: the target alone. All pairs negative: only the top source. Ties: the lower index is ranked first."""
    assert pk.select_group(torch.tensor([[1.0, -0.1], [-0.1, 1.0]]), 1).tolist() == [False, True]
    foes = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.9], [0.5, 0.9, 1.0]])
    assert pk.select_group(foes, 2).tolist() == [False, True, True]
    ties = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.5], [0.5, 0.5, 1.0]])
    assert pk.select_group(ties, 2).tolist() == [True, False, True]
    zeros = torch.zeros(4, 4)
    assert pk.select_group(zeros, 0).tolist() == [True, True, False, False]
