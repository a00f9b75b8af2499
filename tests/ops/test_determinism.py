"""The same bits twice, forward and backward, and for any number of threads."""

from __future__ import annotations

import pytest
import torch
from cases import hadamard, rand

import promptkernels as pk


def everything(dtype):
    """Results and gradients of every public function, large enough for several chunks of work."""
    prompts, start, scale = rand(9, 20, 768, dtype=dtype), rand(20, 768, seed=1, dtype=dtype), rand(9, 20, dtype=dtype)
    weights, scores = rand(9, seed=2, dtype=dtype), rand(9, 20, 768, seed=3, dtype=dtype)
    shared, u, v, task_ids, embeds = hadamard((13, 4, 20, 2, 768, 9), dtype)
    calls = [
        (lambda p, r, s: pk.task_similarity(p, r, scale=s), (prompts, start, scale)),
        (lambda p, r: pk.task_similarity(p, r, metric="token_mean_dot"), (prompts, start)),
        (lambda p, s: pk.svgd_direction(p, s), (prompts, scores)),
        (lambda p, s: pk.svgd_direction(p, s, per_token=True), (prompts, scores)),
        (lambda *f: pk.compose_prompts(*f, task_ids), (shared, u, v)),
        (lambda s, u, v, e: pk.prepend_prompts(s, u, v, task_ids, e), (shared, u, v, embeds)),
        (pk.merge_task_vectors, (start, prompts, scale, weights)),
    ]
    found = []
    for function, tensors in calls:
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = function(*leaves)
        found += [out.detach(), *torch.autograd.grad(out, leaves, rand(*out.shape, seed=9).to(out.dtype))]
    return found


@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_twice(backend, dtype):
    for first, second in zip(everything(dtype), everything(dtype), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_and_two_threads(dtype):
    """Of the default backend on the CPU: the sums of the plain reference are torch's own."""
    if not pk.backends()["cpu"].available:
        pytest.skip(pk.backends()["cpu"].reason)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything(dtype)
        torch.set_num_threads(2)
        together = everything(dtype)
    finally:
        torch.set_num_threads(before)
    for first, second in zip(alone, together, strict=True):
        assert torch.equal(first, second)
