"""Gradients: finite differences in float64, gradients of some inputs only, and what is not differentiable."""

from __future__ import annotations

from itertools import chain, combinations

import pytest
import torch
from cases import CALLS, assert_close, compose_inputs, public_calls, rand, similarity_plus_z
from torch.autograd import gradcheck

import promptkernels as pk

F64 = torch.float64
PUBLIC = {getattr(pk, name): name for name in pk.__all__} | {similarity_plus_z: "task_similarity"}


def leaf(*shape, seed):
    return rand(*shape, seed=seed, dtype=F64, requires_grad=True)


@pytest.mark.parametrize("metric", ["cosine", "token_mean_cosine", "token_mean_dot"])
def test_task_similarity(backend, metric):
    prompts, reference = leaf(4, 2, 5, seed=1), leaf(2, 5, seed=2)
    others, scale = leaf(3, 2, 5, seed=3), leaf(4, 2, seed=4)
    assert gradcheck(lambda p: pk.task_similarity(p, metric=metric), (prompts,))
    assert gradcheck(lambda p, r, s: pk.task_similarity(p, r, metric=metric, scale=s), (prompts, reference, scale))
    assert gradcheck(
        lambda p, r, o, s: pk.task_similarity(p, r, o, metric=metric, scale=s), (prompts, reference, others, scale)
    )


@pytest.mark.parametrize("per_token", [False, True])
def test_svgd_direction(backend, per_token):
    particles, scores = leaf(4, 2, 3, seed=1), leaf(4, 2, 3, seed=2)
    assert gradcheck(lambda x, s: pk.svgd_direction(x, s, bandwidth=2.5, per_token=per_token), (particles, scores))


def test_raw_operations_record_nothing_on_any_backend(backend):
    shared, u, v, task_ids, _ = compose_inputs((4, 3, 5, 1, 7, 2))
    out = torch.ops.promptkernels.compose_prompts(shared.requires_grad_(), u, v, task_ids)
    assert out.grad_fn is None or "WarnNotImplemented" in out.grad_fn.name()


def test_autocast_does_not_change_the_type_or_the_result(backend):
    particles, scores = rand(4, 3, 8), rand(4, 3, 8, seed=1)
    want = pk.svgd_direction(particles, scores)
    with torch.autocast(particles.device.type, torch.bfloat16):
        got = pk.svgd_direction(particles, scores)
    assert got.dtype == torch.float32 and torch.equal(got, want)


def test_svgd_bandwidth_is_a_constant(backend):
    """The gradient with a named bandwidth is the gradient with that number given."""
    particles, scores = leaf(5, 2, 3, seed=1), leaf(5, 2, 3, seed=2)
    weight = rand(5, 2, 3, seed=3, dtype=F64)
    phi, (kernel, h) = pk.svgd_direction(particles, scores, return_kernel=True)
    assert not kernel.requires_grad and not h.requires_grad
    named = torch.autograd.grad((phi * weight).sum(), (particles, scores))
    fixed = torch.autograd.grad(
        (pk.svgd_direction(particles, scores, bandwidth=float(h)) * weight).sum(), (particles, scores)
    )
    for a, b in zip(named, fixed, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shape", [(5, 3, 2, 1, 4, 2), (3, 2, 4, 3, 5, 1), (6, 1, 2, 2, 3, 0)], ids=str)
def test_compose_prepend(backend, shape):
    inputs = compose_inputs(shape, F64)
    shared, u, v, task_ids, embeds = (t.requires_grad_() if t.is_floating_point() else t for t in inputs)
    assert gradcheck(lambda *f: pk.compose_prompts(*f, task_ids), (shared, u, v))
    assert gradcheck(lambda s, a, b, e: pk.prepend_prompts(s, a, b, task_ids, e), (shared, u, v, embeds))


def test_merge_task_vectors(backend):
    inputs = leaf(2, 5, seed=1), leaf(4, 2, 5, seed=2), leaf(4, 2, seed=3), leaf(4, seed=4)
    for count in (2, 3, 4):
        assert gradcheck(pk.merge_task_vectors, inputs[:count])
    assert gradcheck(lambda r, p, w: pk.merge_task_vectors(r, p, None, w), (*inputs[:2], inputs[3]))
    zero = torch.tensor([0.0, 1.0, 0.0, -2.0], dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(pk.merge_task_vectors(*inputs[:3], zero).sum(), zero)
    want = (inputs[2].unsqueeze(-1) * (inputs[1] - inputs[0])).sum((1, 2))
    torch.testing.assert_close(gradient, want)


def subsets(names):
    return chain.from_iterable(combinations(names, size) for size in range(1, len(names)))


@pytest.mark.large  # many small calls
@pytest.mark.parametrize("call", CALLS)
def test_gradients_of_some_inputs_are_those_of_all(backend, call):
    function, tensors = public_calls()[call]
    grad = rand(*function(**tensors).shape, seed=9)

    def gradients(wanted):
        leaves = {name: t.clone().requires_grad_(name in wanted) for name, t in tensors.items()}
        function(**leaves).backward(grad)
        return {name: leaf.grad for name, leaf in leaves.items()}

    everything = gradients(tensors)
    for wanted in subsets(tensors):
        for name, got in gradients(wanted).items():
            assert (got is not None) == (name in wanted), f"{name}, asked for {wanted}"
            if got is not None:
                assert_close(got, everything[name], 1e-6)


def test_gradients_only_where_asked(backend):
    shared, u, v, task_ids, embeds = compose_inputs((4, 3, 5, 1, 7, 2))
    u.requires_grad_()
    pk.prepend_prompts(shared, u, v, task_ids, embeds).sum().backward()
    assert u.grad is not None and shared.grad is None and v.grad is None and embeds.grad is None
    with torch.no_grad():
        assert not pk.compose_prompts(shared, u, v, task_ids).requires_grad


@pytest.mark.parametrize("call", CALLS)
def test_second_derivative_is_refused_with_a_reason(backend, call):
    function, tensors = public_calls()[call]
    leaf = next(iter(tensors.values())).requires_grad_()
    (gradient,) = torch.autograd.grad(function(**tensors).square().sum(), leaf, create_graph=True)
    with pytest.raises(NotImplementedError, match=f"{PUBLIC[function.func]} has no second derivative"):
        gradient.sum().backward()


def test_group_selection_has_no_gradient(backend):
    similarity = pk.task_similarity(leaf(3, 2, 4, seed=1))
    assert not pk.select_group(similarity, 0).requires_grad
