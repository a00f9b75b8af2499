"""What the CUDA backend does around its kernels, in plain torch: many rows, and which devices a build serves."""

from __future__ import annotations

import pytest
import torch
from cases import assert_close, rand

import promptkernels as pk
from promptkernels import reference
from promptkernels.backends import many_rows
from promptkernels.backends.cuda import unserved

F64 = torch.float64


def in_double(function, *arguments):
    return function(*(a.double() if torch.is_tensor(a) else a for a in arguments))


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("metric", ["cosine", "token_mean_cosine", "token_mean_dot"])
@pytest.mark.parametrize("others", [None, 3])
def test_similarity_of_many_rows(dtype, metric, others):
    """Three chunks of columns, the last one short."""
    start, prompts = rand(3, 1501, seed=1, dtype=dtype), rand(70, 3, 1501, dtype=dtype)
    right = None if others is None else rand(others, 3, 1501, seed=2, dtype=dtype)
    scale = rand(70, 3, seed=3, dtype=torch.float64 if dtype == F64 else torch.float32)
    arguments = prompts, start, right, scale, metric, 1e-8
    for got, want in zip(
        many_rows.task_similarity(*arguments), in_double(reference.task_similarity, *arguments), strict=True
    ):
        assert got.dtype == (F64 if dtype == F64 else torch.float32)
        assert_close(got, want, 1e-12 if dtype == F64 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("others", [None, 3])
@pytest.mark.parametrize("tokens_at_once", [2, 100])
def test_z_of_many_rows(monkeypatch, dtype, others, tokens_at_once):
    """Two tokens and the one that is left, or all at once."""
    right = None if others is None else rand(others, 3, 401, seed=2, dtype=dtype)
    monkeypatch.setattr(many_rows, "TOKEN_PRODUCTS", tokens_at_once * 70 * (others or 70))
    scale = rand(70, 3, seed=3, dtype=torch.float64 if dtype == F64 else torch.float32)
    arguments = rand(70, 3, 401, dtype=dtype), rand(3, 401, seed=1, dtype=dtype), right, scale, 1e-8
    for got, want in zip(
        many_rows.task_similarity_z(*arguments), in_double(reference.task_similarity_z, *arguments), strict=True
    ):
        assert got.dtype == (F64 if dtype == F64 else torch.float32)
        assert_close(got, want, 1e-12 if dtype == F64 else 2e-6)


@pytest.mark.parametrize("convention", ["fixed", "liu2016", "numpyro", "blackjax"])
@pytest.mark.parametrize("per_token", [False, True])
def test_svgd_of_many_close_particles(convention, per_token):
    particles = rand(1, 2, 2100, seed=1) + 0.01 * rand(70, 2, 2100)
    arguments = particles, rand(70, 2, 2100, seed=2), 0.3, convention, per_token
    want = in_double(reference.svgd_direction, *arguments)
    for got, expected in zip(many_rows.svgd_direction(*arguments), want, strict=True):
        # NumPyro adds the machine epsilon of the type, which differs between the two; here it is 1e-6 of h.
        assert_close(got, expected, 3e-6 if convention == "numpyro" else 1e-6)


def test_degenerate_rows_among_many():
    prompts = rand(66, 2, 5)
    prompts[1] = 0
    prompts[2] = float("nan")
    similarity, _, _ = many_rows.task_similarity(prompts, None, None, None, "cosine", 1e-8)
    z = many_rows.task_similarity_z(prompts, None, None, None, 1e-8)[3]
    assert not z[1, 3:].any() and z[2].isnan().all() and z[0, 3:].isfinite().all()
    assert not similarity[1, 3:].any() and similarity[2].isnan().all() and similarity[0, 3:].isfinite().all()
    same = rand(1, 2, 5).repeat(66, 1, 1)
    phi, kernel, h = many_rows.svgd_direction(same, prompts[3:].new_ones(66, 2, 5), 0.0, "liu2016", False)
    assert h == 0 and bool((kernel == 1).all()) and torch.allclose(phi, torch.ones_like(phi))


def test_precision_is_restored():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        with many_rows.full_precision():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_backend_takes_more_rows_than_its_kernels(backend):
    if not backend.startswith("cuda"):
        pytest.skip("the other backends have no such limit")
    prompts, others = rand(40, 2, 9, requires_grad=True), rand(30, 2, 9, seed=1)
    similarity, z = pk.task_similarity(prompts, others=others, return_z=True)
    phi = pk.svgd_direction(prompts, rand(40, 2, 9, seed=2))
    (gradient,) = torch.autograd.grad(similarity.sum() + phi.sum(), prompts)
    with pk.use_backend("reference"):
        double = prompts.detach().double().requires_grad_()
        want, want_z = pk.task_similarity(double, others=others.double(), return_z=True)
        want_phi = pk.svgd_direction(double, rand(40, 2, 9, seed=2).double())
        (want_gradient,) = torch.autograd.grad(want.sum() + want_phi.sum(), double)
    assert_close(similarity, want, 2e-6)
    assert_close(z, want_z, 2e-6)
    assert_close(phi, want_phi, 2e-6)
    assert_close(gradient, want_gradient, 5e-6)


@pytest.mark.parametrize(
    ("architectures", "capability", "refused"),
    [
        ("80-real 90-real 120", (8, 0), False),
        ("80-real 90-real 120", (8, 9), False),  # machine code of the same major version
        ("80-real 90-real 120", (7, 5), True),
        ("80-real 90-real 120", (10, 0), True),
        ("80-real 90-real 120", (12, 1), False),
        ("80-real 90-real 120", (13, 0), False),  # from PTX
        ("80-real 120-real", (13, 0), True),
        ("86-real", (8, 0), True),
        ("75-virtual", (9, 0), False),
    ],
)
def test_devices_that_a_build_serves(architectures, capability, refused):
    assert unserved(architectures, capability) is refused
