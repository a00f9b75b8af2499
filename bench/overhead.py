"""Overhead of a call: every public function on tensors of a few numbers, on one thread.

python -m bench.overhead

Calls are timed in short bursts, with all cases in turn. On a busy machine, the fastest tenth of the bursts is the time
of a call, and the rest is due to other work. The floor is an `autograd.Function` that computes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import promptkernels as pk

BURST, ROUNDS = 5, 400


class Empty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, third: Tensor) -> Tensor:
        ctx.save_for_backward(first, second, third)
        return torch.empty_like(first)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return torch.empty_like(ctx.saved_tensors[0]), None, None


def calls() -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Functions of one tensor, and that tensor."""
    prompts, start, scores = torch.randn(3, 2, 4), torch.randn(2, 4), torch.randn(3, 2, 4)
    u, v, embeds, ids = torch.randn(3, 2, 1), torch.randn(3, 1, 4), torch.randn(2, 3, 4), torch.tensor([0, 2])
    return {
        "task_similarity": (lambda x: pk.task_similarity(x, start), prompts),
        "svgd_direction": (lambda x: pk.svgd_direction(x, scores), prompts),
        "compose_prompts": (lambda x: pk.compose_prompts(x, u, v, ids), start),
        "prepend_prompts": (lambda x: pk.prepend_prompts(x, u, v, ids, embeds), start),
        "merge_task_vectors": (lambda x: pk.merge_task_vectors(x, prompts), start),
        "select_group": (lambda x: pk.select_group(x, 1), torch.randn(3, 3)),
        "floor": (lambda x: Empty.apply(x, u, v), start),
    }


def cases() -> dict[tuple[str, str], Callable[[], object]]:
    """Calls by function and mode."""
    functions: dict[tuple[str, str], Callable[[], object]] = {}
    for name, (function, tensor) in calls().items():
        functions[name, "forward"] = lambda function=function, tensor=tensor: function(tensor)
        if name != "select_group":
            leaf, grad = tensor.clone().requires_grad_(), torch.ones_like(function(tensor))
            functions[name, "both"] = lambda function=function, leaf=leaf, grad=grad: function(leaf).backward(grad)
    return functions


def burst(function: Callable[[], object]) -> float:
    """Microseconds per call."""
    start = time.perf_counter()
    for _ in range(BURST):
        function()
    return (time.perf_counter() - start) / BURST * 1e6


def main() -> None:
    torch.set_num_threads(1)
    every = cases()
    times: dict[tuple[str, str], list[float]] = {key: [] for key in every}
    for _ in range(ROUNDS):
        for key, function in every.items():
            times[key].append(burst(function))
    for (name, mode), values in times.items():
        values.sort()
        print(f"{name:<20} {mode:<8} {values[ROUNDS // 10]:7.1f} µs  (median {values[ROUNDS // 2]:.1f})")


if __name__ == "__main__":
    main()
