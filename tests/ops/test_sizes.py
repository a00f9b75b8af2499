"""Every number of rows and every length around the edges of vectors, tiles and blocks: forward and backward."""

from __future__ import annotations

from itertools import product

import matrix_formulas
import pytest
import torch
from cases import assert_close, ids, rand, sizes

import promptkernels as pk

ROWS = (1, 2, 3, 8, 16, 33, 64)
LENGTHS = (1, 7, 63, 64, 65, 4095, 4097)
# The lengths of real prompts (100 tokens of 768 and of 4096), with few rows, a register block and many of them.
LONG = [(1, 76_800), (3, 76_800), (16, 76_800), (33, 76_800), (64, 76_800), (2, 409_600), (8, 409_600)]
FLAT = [*product(ROWS, LENGTHS), *LONG]

# Kernels combine their chunks in float64; the plain reference sums in float32 throughout.
BOUND = {"reference": 5e-5}


def large(value):
    return pytest.param(value, marks=pytest.mark.large)


def check(backend, function, formula, tensors, seed=9):
    """Result and every gradient against the formula in float64."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    exact = [t.double().requires_grad_() for t in tensors]
    got, want = function(*leaves), formula(*exact)
    bound = BOUND.get(backend, 5e-6)
    assert_close(got, want, bound)
    grad = rand(*got.shape, seed=seed)
    gradients = torch.autograd.grad(got, leaves, grad), torch.autograd.grad(want, exact, grad.double())
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, bound)


@pytest.mark.parametrize("shape", sizes(FLAT, large=1000))
def test_task_similarity(backend, shape):
    # Task vectors that share a direction, as tuned prompts do: a sum of near-orthogonal ones would be mostly rounding.
    reference, common = rand(shape[1], seed=1), rand(shape[1], seed=2)
    prompts = reference + common + rand(*shape, seed=3)
    if shape[0] == 1 or shape[1] == 1:  # the cosine is 1 or -1 for all vectors, so there is no gradient to compare
        assert_close(
            pk.task_similarity(prompts, reference), matrix_formulas.cosine(prompts.double(), reference.double()), 1e-6
        )
        return
    check(backend, pk.task_similarity, matrix_formulas.cosine, (prompts, reference))


@pytest.mark.large
def test_similarity_of_many_long_prompts(backend):
    """The largest corner, forward only: 64 rows of 409,600."""
    prompts = torch.randn(64, 409_600, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
    prompts = prompts.add_(1).to(torch.get_default_device())
    gram = sum(part @ part.T for part in (columns.double() for columns in prompts.split(40_960, dim=1)))
    norm = gram.diagonal().sqrt()
    assert_close(pk.task_similarity(prompts), gram / norm / norm[:, None], BOUND.get(backend, 5e-6))


@pytest.mark.parametrize("shape", sizes(FLAT, large=1000))
def test_svgd_direction(backend, shape):
    h = 0.7 * shape[1]
    check(
        backend,
        lambda x, s: pk.svgd_direction(x, s, bandwidth=h),
        lambda x, s: matrix_formulas.svgd(x, s, h),
        (rand(*shape, seed=1), rand(*shape, seed=2)),
    )


@pytest.mark.parametrize("shape", sizes(FLAT, large=1000))
def test_merge_task_vectors(backend, shape):
    check(
        backend,
        lambda r, x, w: pk.merge_task_vectors(r[None], x[:, None], weights=w)[0],
        matrix_formulas.merge,
        (rand(shape[1], seed=1), rand(*shape, seed=2), rand(shape[0], seed=3)),
    )


@pytest.mark.parametrize("hidden", [1, 7, large(63), large(64), 65, large(130)])
@pytest.mark.parametrize("rank", [1, large(2), 4])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("rows", ["one", "same", "repeated", "missing", "single task"])
def test_compose_and_prepend(backend, rows, length, rank, hidden):
    tasks = 1 if rows == "single task" else 6
    task_ids = {
        "one": torch.tensor([4]),
        "same": torch.full((9,), 3),
        "repeated": ids(40, 6, seed=4),
        "missing": torch.tensor([5, 0, 5, 2, 0]),
        "single task": torch.zeros(7, dtype=torch.int64),
    }[rows]
    factors = rand(length, hidden, seed=1), rand(tasks, length, rank, seed=2), rand(tasks, rank, hidden, seed=3)
    embeds = rand(len(task_ids), 3, hidden, seed=5)
    check(
        backend,
        lambda *f: pk.compose_prompts(*f, task_ids),
        lambda *f: matrix_formulas.compose(*f, task_ids),
        factors,
    )
    check(
        backend,
        lambda s, u, v, e: pk.prepend_prompts(s, u, v, task_ids, e),
        lambda s, u, v, e: torch.cat([matrix_formulas.compose(s, u, v, task_ids), e], 1),
        (*factors, embeds),
    )


def test_a_task_that_no_row_has_gets_a_zero_gradient(backend):
    shared, u, v = rand(3, 8), rand(4, 3, 2, seed=1, requires_grad=True), rand(4, 2, 8, seed=2, requires_grad=True)
    pk.compose_prompts(shared, u, v, torch.tensor([3, 1, 3])).sum().backward()
    for gradient in (u.grad, v.grad):
        assert not gradient[[0, 2]].any() and gradient[[1, 3]].any()
