"""Inputs without direction or spread: defined values, never NaN; and NaN in, NaN out."""

from __future__ import annotations

import pytest
import torch
from cases import compose_inputs, rand

import promptkernels as pk


def test_zero_task_vector_has_similarity_zero(backend):
    prompts = rand(4, 3, 5)
    prompts[1] = prompts[3]
    reference = prompts[1].clone()
    for metric in ("cosine", "token_mean_cosine", "token_mean_dot"):
        got = pk.task_similarity(prompts, reference, metric=metric)
        assert torch.equal(got[1], torch.zeros(4)) and torch.equal(got[:, 3], torch.zeros(4))
    assert torch.equal(pk.task_similarity(prompts, reference).diagonal(), torch.tensor([1.0, 0.0, 1.0, 0.0]))


def test_zero_task_vector_has_zero_gradient(backend):
    reference = rand(3, 5)
    prompts = torch.stack([reference, reference + 1, rand(3, 5, seed=1)]).requires_grad_()
    for metric in ("cosine", "token_mean_cosine"):
        (gradient,) = torch.autograd.grad(pk.task_similarity(prompts, reference, metric=metric)[:, 2].sum(), prompts)
        assert torch.equal(gradient[0], torch.zeros(3, 5))
        assert gradient[1].abs().max() > 0 and gradient.isfinite().all()


@pytest.mark.parametrize("rule", [1.5, "liu2016", "numpyro", "blackjax"])
@pytest.mark.parametrize("per_token", [False, True])
def test_one_particle_follows_its_score(backend, rule, per_token):
    particles, scores = rand(1, 4, 6), rand(1, 4, 6, seed=1)
    phi, (kernel, _) = pk.svgd_direction(particles, scores, bandwidth=rule, per_token=per_token, return_kernel=True)
    assert torch.equal(phi, scores) and torch.equal(kernel, torch.ones_like(kernel))


@pytest.mark.parametrize("rule", [1.5, "liu2016", "numpyro", "blackjax"])
@pytest.mark.parametrize("per_token", [False, True])
def test_identical_particles_follow_the_mean_score(backend, rule, per_token):
    particles, scores = rand(1, 4, 6).repeat(5, 1, 1), rand(5, 4, 6, seed=1)
    phi = pk.svgd_direction(particles, scores, bandwidth=rule, per_token=per_token)
    assert torch.allclose(phi, scores.mean(0).expand(5, 4, 6), atol=1e-6)


def test_vanishing_bandwidth_with_one_particle_apart(backend):
    """Four of five particles coincide, so the median distance is 0: the kernel splits them, nothing is NaN."""
    particles, scores = rand(1, 2, 3).repeat(5, 1, 1), rand(5, 2, 3, seed=1)
    particles[4] += 1
    phi, (kernel, h) = pk.svgd_direction(particles, scores, return_kernel=True)
    assert h == 0 and torch.equal(kernel[4], torch.tensor([0.0, 0, 0, 0, 1]))
    assert torch.allclose(phi[4], scores[4] / 5) and torch.allclose(phi[0], scores[:4].sum(0) / 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_particles_that_coincide_away_from_the_first(backend, dtype):
    particles, scores = rand(1, 20, 333).repeat(6, 1, 1).to(dtype), rand(6, 20, 333, seed=1).to(dtype)
    particles[0] += rand(20, 333, seed=2).to(dtype)
    for reference in (None, rand(20, 333, seed=3).to(dtype)):
        phi, (_, h) = pk.svgd_direction(particles, scores, reference=reference, return_kernel=True)
        assert h == 0
        torch.testing.assert_close(phi[0], scores[0] / 6)
        torch.testing.assert_close(phi[3], scores[1:].sum(0) / 6, rtol=1e-5, atol=1e-6)


def test_nan_between_two_sources_ends_the_group_before_it(backend):
    similarity = torch.ones(4, 4)
    similarity[1, 2] = similarity[2, 1] = float("nan")
    similarity[1, 0], similarity[2, 0], similarity[3, 0] = 0.9, 0.8, -1.0
    assert pk.select_group(similarity, 0).tolist() == [True, True, False, False]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_propagate(backend, bad):
    prompts = rand(3, 4, 70)
    prompts[1, 2, 65] = bad
    assert not pk.task_similarity(prompts)[1].isfinite().any()
    assert pk.task_similarity(prompts)[0, 2].isfinite()
    assert not pk.svgd_direction(prompts, rand(3, 4, 70, seed=1)).isfinite().all()
    assert not pk.merge_task_vectors(prompts[0], prompts).isfinite().all()
    shared, u, v, task_ids, embeds = compose_inputs((4, 2, 3, 1, 8, 2))
    shared[1, 1] = bad
    assert not pk.prepend_prompts(shared, u, v, task_ids, embeds)[:, 1, 1].isfinite().any()


def test_dropped_row_does_not_leak(backend):
    """A row of weight 0 is ignored, whatever its values."""
    reference, prompts, scale = rand(2, 5, requires_grad=True), rand(3, 2, 5, seed=1), torch.ones(3, 2)
    want = pk.merge_task_vectors(reference, prompts[:2])
    prompts[2], scale[2] = float("nan"), float("inf")
    prompts.requires_grad_()
    got = pk.merge_task_vectors(reference, prompts, scale, torch.tensor([1.0, 1.0, 0.0]))
    assert torch.equal(got, want)
    got.sum().backward()
    assert torch.equal(prompts.grad[2], torch.zeros(2, 5)) and torch.equal(reference.grad, -torch.ones(2, 5))


def test_empty_batch_has_zero_gradients(backend):
    shared, u, v, task_ids, embeds = compose_inputs((0, 2, 3, 1, 8, 4))
    shared.requires_grad_(), u.requires_grad_(), v.requires_grad_()
    out = pk.prepend_prompts(shared, u, v, task_ids, embeds)
    assert out.shape == (0, 7, 8)
    out.sum().backward()
    assert not shared.grad.any() and not u.grad.any() and not v.grad.any()
