"""The forms people use today, written as they are found, each by its name: one file per family of operations."""

from __future__ import annotations

import torch

from promptkernels.bench.cases import Case, Function, Inputs
from promptkernels.bench.peers import compose, group, similarity, svgd

COMPILED = "torch.compile"
FAMILIES = {
    "similarity": similarity,
    "similarity_z": similarity,
    "svgd": svgd,
    "compose": compose,
    "prepend": compose,
    "group": group,
}


def eager_peers(case: Case, inputs: Inputs) -> dict[str, Function]:
    """The competitors of a case that run as they stand, on these very tensors."""
    return FAMILIES[case.op].peers(case, inputs)


def compiled_peer(case: Case) -> Function:
    """torch.compile of the plain form, for exactly these sizes."""
    return torch.compile(FAMILIES[case.op].plain(case), dynamic=False)
