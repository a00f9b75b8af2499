"""Laws that hold for any input: symmetry, invariance, equivariance, linearity."""

from __future__ import annotations

import pytest
import torch
from cases import ids, rand
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import promptkernels as pk

sizes = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 40))
seeds = st.integers(0, 2**31 - 1)
# The backend is the same for all examples of a test, so a fixture created once is intended.
once = [HealthCheck.function_scoped_fixture]
quick = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=once)
F64 = torch.float64
pytestmark = pytest.mark.large  # many small calls


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@quick
@given(sizes, seeds, st.floats(0.01, 100))
def test_cosine_is_symmetric_bounded_and_blind_to_scale(backend, shape, seed, factor):
    prompts, reference = rand(*shape, seed=seed, dtype=F64), rand(*shape[1:], seed=seed + 1, dtype=F64)
    similarity = pk.task_similarity(prompts, reference)
    close(similarity, similarity.T)
    assert torch.equal(similarity.diagonal(), torch.ones(shape[0], dtype=F64))
    assert similarity.abs().max() <= 1 + 1e-12
    close(pk.task_similarity(reference + factor * (prompts - reference), reference), similarity)


@quick
@given(sizes, seeds, st.randoms(use_true_random=False))
def test_svgd_is_translation_invariant_and_permutation_equivariant(backend, shape, seed, random):
    particles, scores = rand(*shape, seed=seed, dtype=F64), rand(*shape, seed=seed + 1, dtype=F64)
    phi = pk.svgd_direction(particles, scores)
    close(pk.svgd_direction(particles + 3.0, scores), phi)
    order = list(range(shape[0]))
    random.shuffle(order)
    close(pk.svgd_direction(particles[order], scores[order]), phi[order])


@quick
@given(sizes, seeds)
def test_svgd_repulsion_sums_to_zero(backend, shape, seed):
    """K is symmetric, so without scores the particles' mean does not move."""
    particles = rand(*shape, seed=seed, dtype=F64)
    close(pk.svgd_direction(particles, torch.zeros_like(particles)).sum(0), torch.zeros(shape[1:], dtype=F64))


@quick
@given(sizes, seeds, st.integers(1, 3), st.integers(0, 7))
def test_composition_is_linear_in_each_factor_and_equivariant_over_rows(backend, shape, seed, rank, rows):
    tasks, length, hidden = shape
    shared, u = rand(length, hidden, seed=seed, dtype=F64), rand(tasks, length, rank, seed=seed + 1, dtype=F64)
    v = rand(tasks, rank, hidden, seed=seed + 2, dtype=F64)
    task_ids = ids(rows, tasks, seed=seed)
    composed = pk.compose_prompts(shared, u, v, task_ids)
    for factors in [(2 * shared, u, v), (shared, 2 * u, v), (shared, u, 2 * v)]:
        close(pk.compose_prompts(*factors, task_ids), 2 * composed)
    close(pk.compose_prompts(shared, u, v, task_ids.flip(0)), composed.flip(0))


@quick
@given(sizes, seeds, st.floats(0.01, 100))
def test_grouping_is_blind_to_a_common_positive_scale(backend, shape, seed, factor):
    vectors = rand(*shape, seed=seed, dtype=F64)
    similarity = pk.task_similarity(vectors, metric="token_mean_dot")
    scaled = pk.task_similarity(vectors * factor, metric="token_mean_dot")
    assert torch.equal(pk.select_group(similarity, 0), pk.select_group(scaled, 0))


def test_svgd_recovers_a_gaussian():
    """Particles under score -(x - mean)/var settle at that mean and variance, in one and two dimensions."""
    for mean, variance in [([2.0], [0.5]), ([1.0, -3.0], [2.0, 0.3])]:
        mean, variance = torch.tensor(mean, dtype=F64), torch.tensor(variance, dtype=F64)
        particles = rand(100, len(mean), seed=3, dtype=F64)
        for _ in range(3000):
            particles = particles + 0.3 * pk.svgd_direction(particles, (mean - particles) / variance)
        close(particles.mean(0), mean, 0.02)
        close(particles.var(0) / variance, torch.ones_like(mean), 0.15)


def test_svgd_of_a_product_of_gaussians_lands_on_the_precision_weighted_mean():
    """Two sources and a flat prior: their scores add, the means are weighted by the precisions."""
    particles = rand(60, 1, seed=5, dtype=F64)
    for _ in range(2000):
        score = (1.0 - particles) / 0.5 + (4.0 - particles) / 2.0
        particles = particles + 0.2 * pk.svgd_direction(particles, score)
    close(particles.mean(), torch.tensor((1.0 / 0.5 + 4.0 / 2.0) / (1 / 0.5 + 1 / 2.0), dtype=F64), 0.02)
