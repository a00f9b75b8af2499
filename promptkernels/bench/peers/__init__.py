"""Other implementations of the operations, as found in practice, by name: one file per family."""

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
    """The competitors of a case that run without compilation, on these tensors."""
    return FAMILIES[case.op].peers(case, inputs)


def compiled_peer(case: Case) -> Function:
    """torch.compile of the plain form, specialized to these sizes."""
    return torch.compile(FAMILIES[case.op].plain(case), dynamic=False)
