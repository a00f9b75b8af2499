"""Pairwise cosine of task vectors."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from promptkernels import reference
from promptkernels.bench.cases import Case, Function, Inputs


def normalise_matmul(x: Inputs) -> Tensor:
    vectors = torch.nn.functional.normalize((x["prompts"] - x["start"]).flatten(1))
    return vectors @ vectors.T


def torchmetrics_cosine(x: Inputs) -> Tensor:
    from torchmetrics.functional import pairwise_cosine_similarity

    vectors = (x["prompts"] - x["start"]).flatten(1)
    return pairwise_cosine_similarity(vectors, zero_diagonal=False)


def peers(case: Case, inputs: Inputs) -> dict[str, Function]:
    found: dict[str, Function] = {"normalise + matmul": normalise_matmul}
    if find_spec("torchmetrics"):
        found["torchmetrics"] = torchmetrics_cosine
    return found


def plain(case: Case) -> Function:
    return lambda x: reference.task_similarity(x["prompts"], x["start"], None, None, "cosine", 1e-8)[0]
