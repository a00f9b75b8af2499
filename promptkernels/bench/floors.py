"""Floors: lower bounds on an operation's time, measured in the same rounds. They are not competitors."""

from __future__ import annotations

import torch
from torch import Tensor

import promptkernels as pk
from promptkernels.bench.cases import Case, Function, Inputs

EMPTY = "empty kernels"


def floors(case: Case, inputs: Inputs) -> dict[str, Function]:
    """Floors of a forward pass, by name. Outputs are allocated as by the contestants."""
    if case.op == "similarity_z":
        return {"similarity alone": lambda x: pk.task_similarity(x["prompts"], x["start"])}
    if case.op == "compose":
        return {"write output": _write_output(case, inputs)}
    if case.op == "prepend":
        return {"plain copy": _plain_copy(case, inputs)}
    return {}


def _write_output(case: Case, inputs: Inputs) -> Function:
    shape = tuple(case.sizes[name] for name in "BLH")
    like = inputs["shared"]
    return lambda x: torch.empty(shape, dtype=like.dtype, device=like.device).fill_(1.0)


def _plain_copy(case: Case, inputs: Inputs) -> Function:
    """A copy with the operation's least total of bytes read and written."""
    like = inputs["embeds"]
    source = torch.ones(case.bytes_forward // 2 // like.element_size(), dtype=like.dtype, device=like.device)

    def copy(x: Inputs) -> Tensor:
        return torch.empty_like(source).copy_(source)

    return copy


def empty_kernels(launches: int, device: torch.device) -> Function:
    """Kernels that each write one number: the cost of launching alone."""
    number = torch.empty(1, device=device)

    def launch(x: Inputs) -> Tensor:
        for _ in range(launches):
            number.fill_(1.0)
        return number

    return launch
