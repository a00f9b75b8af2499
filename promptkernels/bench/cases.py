"""Benchmark cases: operations, sizes, inputs, and the least memory traffic of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import promptkernels as pk

Inputs = dict[str, Tensor]
Function = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    Args:
        op: family, by which peers are looked up.
        sizes: letters of the shapes (T, L, H, ...) and their values.
        make: creates seeded inputs on a device.
        ours: the public function on these inputs.
        leaves: names of the inputs that receive a gradient in the backward case.
        bytes_forward: least float32 traffic of a forward pass: every large input read once, every output written once.
        bytes_backward: least additional traffic of a backward pass: its large inputs read once more, and the gradients
            with the size of an input or an output.
    """

    op: str
    sizes: dict[str, int]
    make: Callable[[torch.device], Inputs]
    ours: Function
    leaves: tuple[str, ...]
    bytes_forward: int
    bytes_backward: int = 0

    def least_bytes(self, backward: bool) -> int:
        return self.bytes_forward + (self.bytes_backward if backward else 0)

    @property
    def name(self) -> str:
        return f"{self.op} " + " ".join(f"{key}={value}" for key, value in self.sizes.items())


def randn(device: torch.device, seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    """Normally distributed numbers, the same on every device."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (scale * values).to(device)


def _around_start(device: torch.device, rows: int, length: int, hidden: int) -> Inputs:
    """Prompts one per cent away from a common start, like tuned prompts."""
    start = randn(device, 0, length, hidden)
    return {"start": start, "prompts": start + randn(device, 1, rows, length, hidden, scale=0.01)}


def similarity(tasks: int, length: int, hidden: int) -> Case:
    return Case(
        "similarity",
        {"T": tasks, "L": length, "H": hidden},
        lambda device: _around_start(device, tasks, length, hidden),
        lambda x: pk.task_similarity(x["prompts"], x["start"]),
        ("prompts",),
        4 * (tasks + 1) * length * hidden,
        4 * (2 * tasks + 1) * length * hidden,
    )


def similarity_z(tasks: int, length: int, hidden: int) -> Case:
    """The cosine and its z score, concatenated, so that every contestant must compute both."""
    return Case(
        "similarity_z",
        {"T": tasks, "L": length, "H": hidden},
        lambda device: _around_start(device, tasks, length, hidden),
        lambda x: torch.cat(pk.task_similarity(x["prompts"], x["start"], return_z=True)),
        (),
        4 * (tasks + 1) * length * hidden,
    )


def svgd(particles: int, length: int, hidden: int) -> Case:
    def make(device: torch.device) -> Inputs:
        inputs = _around_start(device, particles, length, hidden)
        return {**inputs, "scores": randn(device, 2, particles, length, hidden)}

    return Case(
        "svgd",
        {"M": particles, "L": length, "H": hidden},
        make,
        lambda x: pk.svgd_direction(x["prompts"], x["scores"], reference=x["start"]),
        (),
        4 * 4 * particles * length * hidden,
    )


def _factors(batch: int, tasks: int, length: int, hidden: int, rank: int, text: int) -> Callable[..., Inputs]:
    def make(device: torch.device) -> Inputs:
        return {
            "shared": randn(device, 1, length, hidden),
            "u": randn(device, 2, tasks, length, rank),
            "v": randn(device, 3, tasks, rank, hidden),
            "task_ids": torch.randint(tasks, (batch,), generator=torch.Generator().manual_seed(4)).to(device),
            "embeds": randn(device, 5, batch, text, hidden),
        }

    return make


def compose(batch: int, tasks: int, length: int, hidden: int, text: int, rank: int) -> Case:
    return Case(
        "compose",
        {"B": batch, "T": tasks, "L": length, "H": hidden, "R": rank},
        _factors(batch, tasks, length, hidden, rank, text),
        lambda x: pk.compose_prompts(x["shared"], x["u"], x["v"], x["task_ids"]),
        ("shared", "u", "v"),
        4 * batch * length * hidden,
        4 * batch * length * hidden,
    )


def prepend(batch: int, tasks: int, length: int, hidden: int, text: int, rank: int) -> Case:
    return Case(
        "prepend",
        {"B": batch, "T": tasks, "L": length, "H": hidden, "S": text, "R": rank},
        _factors(batch, tasks, length, hidden, rank, text),
        lambda x: pk.prepend_prompts(x["shared"], x["u"], x["v"], x["task_ids"], x["embeds"]),
        ("shared", "u", "v"),
        4 * batch * (length + 2 * text) * hidden,
        4 * batch * length * hidden,
    )


def group(sources: int, length: int, hidden: int) -> Case:
    """A step of DTVG: grouping on detached task vectors, then the merge. The gradient is with respect to the scales."""

    def step(x: Inputs) -> Tensor:
        similarity = pk.task_similarity(x["prompts"], x["start"], metric="token_mean_dot", scale=x["scale"].detach())
        chosen = pk.select_group(similarity, sources)
        return pk.merge_task_vectors(x["start"], x["prompts"], x["scale"], chosen.to(x["start"].dtype))

    def make(device: torch.device) -> Inputs:
        # Tuned prompts share a direction, so every source is similar to the target and none drops out of the search.
        start, common = randn(device, 0, length, hidden), randn(device, 2, length, hidden)
        own = randn(device, 1, sources + 1, length, hidden)
        scale = 1 + randn(device, 3, sources + 1, length, scale=0.1)
        return {"start": start, "prompts": start + 0.01 * (common + own), "scale": scale}

    return Case(
        "group",
        {"sources": sources, "L": length, "H": hidden},
        make,
        step,
        ("scale",),
        4 * (2 * (sources + 1) + 2) * length * hidden,
        4 * (sources + 3) * length * hidden,
    )


_PROMPTS = [(6, 100, 768), (16, 100, 768), (64, 100, 768), (32, 100, 4096)]
_BATCHES = [(32, 8, 100, 768, 256), (32, 8, 100, 2048, 512), (16, 6, 20, 576, 48)]

CASES: list[Case] = [
    *(similarity(*shape) for shape in _PROMPTS),
    *(similarity_z(*shape) for shape in _PROMPTS),
    *(svgd(*shape) for shape in [(5, 100, 768), *_PROMPTS]),
    *(compose(*shape, rank) for shape in _BATCHES for rank in (1, 4)),
    *(prepend(*shape, rank) for shape in _BATCHES for rank in (1, 4)),
    *(group(sources, 100, 768) for sources in (6, 26)),
]


# Each moves 256 MB or more, so that a GPU's memory bandwidth matters and not its caches.
LARGE: list[Case] = [
    similarity(32, 512, 4096),
    svgd(32, 512, 4096),
    compose(32, 8, 512, 4096, 0, 4),
    prepend(32, 8, 100, 4096, 1024, 4),
    group(32, 512, 4096),
]


def chosen(words: list[str] | None, cases: list[Case] = CASES) -> list[Case]:
    """The cases whose name contains one of the words; all of them without words.

    Raises:
        ValueError: no case contains one of the words.
    """
    if not words:
        return cases
    for word in words:
        if not any(word in case.name for case in cases):
            raise ValueError(f"no benchmark case has {word!r} in its name; operations: {sorted({c.op for c in cases})}")
    return [case for case in cases if any(word in case.name for word in words)]


def incoming_gradient(function: Function, inputs: Inputs) -> Tensor:
    """A fixed random gradient of the output, created once, so that it is not part of any timing."""
    with torch.no_grad():
        out = function(inputs)
    return randn(out.device, 7, *out.shape).to(out.dtype)


def run(function: Function, inputs: Inputs, leaves: tuple[str, ...] = (), gradient: Tensor | None = None) -> Tensor:
    """Run a forward pass and, given a gradient of the output, the backward pass to the leaves."""
    if gradient is None:
        with torch.no_grad():
            return function(inputs)
    for name in leaves:
        inputs[name].grad = None
    out = function(inputs)
    out.backward(gradient)
    return out
