"""Memory layouts of inputs and of incoming gradients do not matter, and nothing is written outside of results."""

from __future__ import annotations

import pytest
import torch
from cases import CALLS, LAYOUTS, assert_close, compose_inputs, ids, public_calls, rand, strided

import promptkernels as pk

DTYPES = [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.large)]


def results(function, tensors, grad=None):
    """The result and the gradients of all tensors; the random incoming gradient may be given in another layout."""
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    out = function(**leaves)
    grad = rand(*out.shape, seed=9).to(out.dtype) if grad is None else grad
    return out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("call", CALLS)
def test_inputs(backend, call, layout, dtype):
    function, tensors = public_calls()[call]
    viewed = {name: strided(t.to(dtype), layout) for name, t in tensors.items()}
    before = {name: t.clone() for name, t in viewed.items()}
    want = results(function, before)
    for got, expected in zip(results(function, viewed), want, strict=True):
        assert_close(got, expected, 1e-6 if got.dtype == torch.float32 else 4e-3)
    for name, t in viewed.items():
        assert torch.equal(t, before[name]), f"{name} was written to"
        if layout in ("sliced", "offset"):
            inside = t.clone()
            t.fill_(float("nan"))
            memory = t.as_strided((t.untyped_storage().nbytes() // t.element_size(),), (1,), 0)
            assert memory.isnan().all(), f"memory around {name} was written to"
            t.copy_(inside)


@pytest.mark.parametrize("layout", ["permuted", "sliced", "offset"])
@pytest.mark.parametrize("call", CALLS)
def test_incoming_gradients(backend, call, layout):
    function, tensors = public_calls()[call]
    grad = rand(*function(**tensors).shape, seed=9)
    for got, want in zip(
        results(function, tensors, strided(grad, layout)), results(function, tensors, grad), strict=True
    ):
        assert_close(got, want, 1e-6)


@pytest.mark.parametrize("call", CALLS)
def test_a_sum_sends_back_one_expanded_number(backend, call):
    function, tensors = public_calls()[call]
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    got = torch.autograd.grad(function(**leaves).sum(), list(leaves.values()))
    want = results(function, tensors, torch.ones_like(function(**tensors)))[1:]
    for g, w in zip(got, want, strict=True):
        assert_close(g, w, 1e-6)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_task_ids(backend, dtype):
    shared, u, v, _, embeds = compose_inputs((6, 3, 5, 2, 17, 4))
    every_second = ids(12, 3, dtype=dtype)[::2]
    same = torch.tensor([2], dtype=dtype).expand(6)
    for index in (every_second, same):
        want = pk.compose_prompts(shared, u, v, index.clone())
        assert torch.equal(pk.compose_prompts(shared, u, v, index), want)
        assert torch.equal(pk.prepend_prompts(shared, u, v, index, embeds)[:, :5], want)


def test_results_are_contiguous(backend):
    for function, tensors in public_calls().values():
        out = function(**{name: strided(t, "permuted") for name, t in tensors.items()})
        assert out.is_contiguous()


def test_similarity_matrix_of_any_layout(backend):
    similarity = rand(9, 9)
    want = pk.select_group(similarity, 4)
    for layout in ("permuted", "sliced", "offset"):
        assert torch.equal(pk.select_group(strided(similarity, layout), 4), want)
