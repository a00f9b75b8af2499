"""What is measured: operations, sizes, inputs, and the least traffic each could do with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import promptkernels as pk

Inputs = dict[str, Tensor]
Function = Callable[[Inputs], Tensor]


@dataclass(frozen=True)
class Case:
    """One operation at one size.

    Args:
        op: family; peers are looked up by it.
        sizes: letters of the contract (T, L, H, ...) and their values.
        make: inputs on a device, seeded.
        ours: the public function on these inputs.
        leaves: names of the inputs that receive a gradient in the backward case.
        bytes_forward: least float32 traffic of a forward pass: every input read once, every output written once.
    """

    op: str
    sizes: dict[str, int]
    make: Callable[[torch.device], Inputs]
    ours: Function
    leaves: tuple[str, ...]
    bytes_forward: int

    @property
    def name(self) -> str:
        return f"{self.op} " + " ".join(f"{key}={value}" for key, value in self.sizes.items())


def _randn(device: torch.device, seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (scale * values).to(device)


def _around_start(device: torch.device, rows: int, length: int, hidden: int) -> Inputs:
    """Prompts one per cent apart from a common start, as tuned prompts are."""
    start = _randn(device, 0, length, hidden)
    return {"start": start, "prompts": start + _randn(device, 1, rows, length, hidden, scale=0.01)}


def similarity(tasks: int, length: int, hidden: int) -> Case:
    return Case(
        "similarity",
        {"T": tasks, "L": length, "H": hidden},
        lambda device: _around_start(device, tasks, length, hidden),
        lambda x: pk.task_similarity(x["prompts"], x["start"]),
        ("prompts",),
        4 * (tasks + 1) * length * hidden,
    )


def svgd(particles: int, length: int, hidden: int) -> Case:
    def make(device: torch.device) -> Inputs:
        inputs = _around_start(device, particles, length, hidden)
        return {**inputs, "scores": _randn(device, 2, particles, length, hidden)}

    return Case(
        "svgd",
        {"M": particles, "L": length, "H": hidden},
        make,
        lambda x: pk.svgd_direction(x["prompts"], x["scores"], reference=x["start"]),
        (),
        4 * 4 * particles * length * hidden,
    )


def _hadamard(batch: int, tasks: int, length: int, hidden: int, rank: int, text: int) -> Callable[..., Inputs]:
    def make(device: torch.device) -> Inputs:
        return {
            "shared": _randn(device, 1, length, hidden),
            "u": _randn(device, 2, tasks, length, rank),
            "v": _randn(device, 3, tasks, rank, hidden),
            "task_ids": torch.randint(tasks, (batch,), generator=torch.Generator().manual_seed(4)).to(device),
            "embeds": _randn(device, 5, batch, text, hidden),
        }

    return make


def compose(batch: int, tasks: int, length: int, hidden: int, text: int, rank: int) -> Case:
    return Case(
        "compose",
        {"B": batch, "T": tasks, "L": length, "H": hidden, "R": rank},
        _hadamard(batch, tasks, length, hidden, rank, text),
        lambda x: pk.compose_prompts(x["shared"], x["u"], x["v"], x["task_ids"]),
        ("shared", "u", "v"),
        4 * batch * length * hidden,
    )


def prepend(batch: int, tasks: int, length: int, hidden: int, text: int, rank: int) -> Case:
    return Case(
        "prepend",
        {"B": batch, "T": tasks, "L": length, "H": hidden, "S": text, "R": rank},
        _hadamard(batch, tasks, length, hidden, rank, text),
        lambda x: pk.prepend_prompts(x["shared"], x["u"], x["v"], x["task_ids"], x["embeds"]),
        ("shared", "u", "v"),
        4 * batch * (length + 2 * text) * hidden,
    )


def dtvg(sources: int, length: int, hidden: int) -> Case:
    def step(x: Inputs) -> Tensor:
        similarity = pk.task_similarity(x["prompts"], x["start"], metric="token_mean_dot", scale=x["scale"])
        group = pk.select_group(similarity, sources)
        return pk.merge_task_vectors(x["start"], x["prompts"], x["scale"], group.float())

    def make(device: torch.device) -> Inputs:
        inputs = _around_start(device, sources + 1, length, hidden)
        return {**inputs, "scale": 1 + _randn(device, 3, sources + 1, length, scale=0.1)}

    return Case(
        "dtvg",
        {"sources": sources, "L": length, "H": hidden},
        make,
        step,
        (),
        4 * (2 * (sources + 1) + 2) * length * hidden,
    )


_PROMPTS = [(6, 100, 768), (16, 100, 768), (64, 100, 768), (32, 100, 4096)]
_BATCHES = [(32, 8, 100, 768, 256), (32, 8, 100, 2048, 512), (16, 6, 20, 576, 48)]

CASES: list[Case] = [
    *(similarity(*shape) for shape in _PROMPTS),
    *(svgd(*shape) for shape in [(5, 100, 768), *_PROMPTS]),
    *(compose(*shape, rank) for shape in _BATCHES for rank in (1, 4)),
    *(prepend(*shape, rank) for shape in _BATCHES for rank in (1, 4)),
    *(dtvg(sources, 100, 768) for sources in (6, 26)),
]


def chosen(names: list[str] | None) -> list[Case]:
    """Cases whose name contains one of the words, all without any.

    Raises:
        ValueError: a word that no case has.
    """
    if not names:
        return CASES
    for word in names:
        if not any(word in case.name for case in CASES):
            raise ValueError(f"no benchmark case has {word!r} in its name; operations: {sorted({c.op for c in CASES})}")
    return [case for case in CASES if any(word in case.name for word in names)]


def run(function: Function, inputs: Inputs, leaves: tuple[str, ...]) -> Any:
    """One forward pass, and the backward pass of a ones gradient where there are leaves."""
    if not leaves:
        with torch.no_grad():
            return function(inputs)
    for name in leaves:
        inputs[name].grad = None
    out = function(inputs)
    out.backward(torch.ones_like(out))
    return out
