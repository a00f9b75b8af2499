"""Every backend against the float64 reference, in every element type."""

from __future__ import annotations

import pytest
import torch
from cases import (
    COMPOSE_SHAPES,
    DTYPES,
    PROMPT_SHAPES,
    REFERENCE_SUM,
    ROUNDED_OUTPUT,
    TOLERANCE,
    assert_close,
    compose_inputs,
    rand,
    relative_rms,
    sizes,
)

import promptkernels as pk

METRICS = ["cosine", "token_mean_cosine", "token_mean_dot"]


def sum_tolerance(backend, dtype):
    return REFERENCE_SUM[dtype] if backend == "reference" else 4 * TOLERANCE[dtype]


def oracle(function, *args, **kwargs):
    """The reference on the same values in float64."""
    double = [a.double() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
    kwargs = {k: a.double() if torch.is_tensor(a) and a.is_floating_point() else a for k, a in kwargs.items()}
    with pk.use_backend("reference"):
        return function(*double, **kwargs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", sizes(PROMPT_SHAPES))
@pytest.mark.parametrize("metric", METRICS)
def test_task_similarity(backend, shape, dtype, metric):
    prompts, reference = rand(*shape, seed=1, dtype=dtype), rand(*shape[1:], seed=2, dtype=dtype)
    others, scale = rand(4, *shape[1:], seed=3, dtype=dtype), rand(*shape[:2], seed=4, dtype=dtype)
    for args in [(prompts,), (prompts, reference), (prompts, reference, others), (prompts, reference, others[:1])]:
        for factor in (None, scale):
            got = pk.task_similarity(*args, metric=metric, scale=factor)
            assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert_close(
                got, oracle(pk.task_similarity, *args, metric=metric, scale=factor), sum_tolerance(backend, dtype)
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", sizes(PROMPT_SHAPES))
@pytest.mark.parametrize("per_token", [False, True])
def test_svgd_direction(backend, shape, dtype, per_token):
    particles, scores = rand(*shape, seed=1, dtype=dtype), rand(*shape, seed=2, dtype=dtype)
    for rule in ("liu2016", 3.0 * shape[2]):
        got = pk.svgd_direction(particles, scores, bandwidth=rule, per_token=per_token, return_kernel=True)
        want = oracle(pk.svgd_direction, particles, scores, bandwidth=rule, per_token=per_token, return_kernel=True)
        for g, w in zip((got[0], *got[1]), (want[0], *want[1]), strict=True):
            assert_close(g, w, sum_tolerance(backend, dtype))


@pytest.mark.parametrize("spread", [1e-1, 1e-2, 1e-3])
@pytest.mark.large
def test_svgd_keeps_float32_accuracy_for_close_particles(backend, spread):
    """Particles near a common start: the uncentred Gram form loses up to five digits here, the centred one none."""
    start = rand(1, 20, 768, seed=1)
    particles, scores = start + spread * rand(8, 20, 768, seed=2), rand(8, 20, 768, seed=3)
    want = oracle(pk.svgd_direction, particles, scores)
    assert relative_rms(pk.svgd_direction(particles, scores), want) <= 1e-6
    x = particles.flatten(1)
    gram = x @ x.T
    squared = (gram.diag()[:, None] + gram.diag() - 2 * gram).clamp_min(0)
    h = squared.flatten().sort().values[31:33].mean() / torch.tensor(9.0).log()
    kernel = torch.exp(-squared / h)
    plain = (kernel @ scores.flatten(1) + 2 / h * (kernel.sum(1, keepdim=True) * x - kernel @ x)) / 8
    if spread <= 1e-2:
        assert relative_rms(plain.view_as(want), want) > 1e-4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", sizes(COMPOSE_SHAPES))
def test_compose_prepend(backend, shape, dtype):
    shared, u, v, task_ids, embeds = compose_inputs(shape, dtype)
    for index in (task_ids, task_ids.int()):
        got = pk.compose_prompts(shared, u, v, index)
        assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert_close(got, oracle(pk.compose_prompts, shared, u, v, task_ids), TOLERANCE[dtype])
        joined = pk.prepend_prompts(shared, u, v, index, embeds)
        assert joined.dtype == dtype
        assert_close(joined, oracle(pk.prepend_prompts, shared, u, v, task_ids, embeds), ROUNDED_OUTPUT[dtype])
        assert torch.equal(joined[:, shape[2] :], embeds)


@pytest.mark.parametrize("embeds_dtype", DTYPES, ids=str)
def test_prepend_float32_masters_to_any_input_type(backend, embeds_dtype):
    """Prompts stay float32 while the model runs in another type: composed in float32, rounded once."""
    shared, u, v, task_ids, embeds = compose_inputs((6, 3, 5, 2, 65, 4))
    got = pk.prepend_prompts(shared, u, v, task_ids, embeds.to(embeds_dtype))
    want = oracle(pk.compose_prompts, shared, u, v, task_ids).float().to(embeds_dtype)
    assert got.dtype == embeds_dtype
    interpreted = backend == "triton" and got.device.type == "cpu"  # Triton's interpreter cuts bfloat16 off
    assert_close(got[:, :5], want, max(ROUNDED_OUTPUT[embeds_dtype], 1e-6) * (2 if interpreted else 1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", sizes(PROMPT_SHAPES))
def test_merge_task_vectors(backend, shape, dtype):
    reference, prompts = rand(*shape[1:], dtype=dtype), rand(*shape, seed=1, dtype=dtype)
    scale, weights = rand(*shape[:2], seed=2, dtype=dtype), rand(shape[0], seed=3, dtype=dtype)
    for factors in [(None, None), (scale, None), (None, weights), (scale, weights)]:
        got = pk.merge_task_vectors(reference, prompts, *factors)
        assert_close(got, oracle(pk.merge_task_vectors, reference, prompts, *factors), TOLERANCE[dtype])
