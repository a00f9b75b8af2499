"""The same bits twice, forward and backward, and for any number of threads."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import compose_inputs, rand

import promptkernels as pk


def everything(dtype):
    """Results and gradients of every public function, large enough for several chunks of work."""
    prompts, start, scale = rand(9, 20, 768, dtype=dtype), rand(20, 768, seed=1, dtype=dtype), rand(9, 20, dtype=dtype)
    weights, scores = rand(9, seed=2, dtype=dtype), rand(9, 20, 768, seed=3, dtype=dtype)
    shared, u, v, task_ids, embeds = compose_inputs((13, 4, 20, 2, 768, 9), dtype)
    calls = [
        (lambda p, r, s: pk.task_similarity(p, r, scale=s), (prompts, start, scale)),
        (lambda p, r: pk.task_similarity(p, r, metric="token_mean_cosine"), (prompts, start)),
        (lambda p, r: pk.task_similarity(p, r, metric="token_mean_dot"), (prompts, start)),
        (lambda p, r, o: pk.task_similarity(p, r, o), (prompts, start, scores)),
        (lambda p, r: sum(pk.task_similarity(p, r, return_z=True)), (prompts, start)),
        (lambda p, r, o: sum(pk.task_similarity(p, r, o[:1], return_z=True)), (prompts, start, scores)),
        (lambda p, s: pk.svgd_direction(p, s), (prompts, scores)),
        (lambda p, s: pk.svgd_direction(p, s, per_token=True), (prompts, scores)),
        (lambda *f: pk.compose_prompts(*f, task_ids), (shared, u, v)),
        (lambda s, u, v, e: pk.prepend_prompts(s, u, v, task_ids, e), (shared, u, v, embeds)),
        (pk.merge_task_vectors, (start, prompts, scale, weights)),
    ]
    results = []
    for function, tensors in calls:
        leaves = [t.detach().requires_grad_() for t in tensors]
        out = function(*leaves)
        results += [out.detach(), *torch.autograd.grad(out, leaves, rand(*out.shape, seed=9).to(out.dtype))]
    return [*results, pk.select_group(pk.task_similarity(prompts), 3)]


@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_twice(backend, dtype):
    if backend == "reference" and torch.get_default_device().type == "cuda":
        pytest.skip("torch's index_add_ adds in any order on a GPU")
    for first, second in zip(everything(dtype), everything(dtype), strict=True):
        assert torch.equal(first, second)


@pytest.fixture(scope="module")
def alone() -> dict[torch.dtype, list[torch.Tensor]]:
    """Results of one thread on the CPU's default backend. The plain reference uses torch's own sums."""
    if not pk.backends()["cpu"].available:
        pytest.skip(pk.backends()["cpu"].reason)
    return {dtype: with_threads(1, dtype) for dtype in (torch.float32, torch.float64, torch.bfloat16)}


def with_threads(count: int, dtype: torch.dtype) -> list[torch.Tensor]:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count)
        return everything(dtype)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [2, 3, 8])
def test_any_number_of_threads(alone, count, dtype):
    for first, second in zip(alone[dtype], with_threads(count, dtype), strict=True):
        assert torch.equal(first, second)


def test_another_process(alone):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch
from test_determinism import hashed, with_threads
print(hashed(with_threads(2, torch.float32)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == hashed(alone[torch.float32]), done.stderr


def hashed(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in tensors)).hexdigest()
