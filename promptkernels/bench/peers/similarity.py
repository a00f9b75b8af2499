"""Pairwise cosine of task vectors, also with the z score over tokens."""

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


def einsum_z(x: Inputs) -> Tensor:
    """The cosine and z from the same dot products per token."""
    vectors = x["prompts"] - x["start"]
    per_token = torch.einsum("ilh,jlh->ijl", vectors, vectors)
    products = per_token.sum(-1)
    norms = products.diagonal().sqrt()
    return torch.cat([products / norms / norms[:, None], products / torch.linalg.vector_norm(per_token, dim=-1)])


def normalise_matmul_z(x: Inputs) -> Tensor:
    """The plain cosine, and a separate pass for z."""
    by_token = (x["prompts"] - x["start"]).transpose(0, 1)
    per_token = by_token @ by_token.mT
    return torch.cat([normalise_matmul(x), per_token.sum(0) / torch.linalg.vector_norm(per_token, dim=0)])


def peers(case: Case, inputs: Inputs) -> dict[str, Function]:
    if case.op == "similarity_z":
        return {"einsum per token": einsum_z, "normalise + matmul, then z": normalise_matmul_z}
    functions: dict[str, Function] = {"normalise + matmul": normalise_matmul}
    if find_spec("torchmetrics"):
        functions["torchmetrics"] = torchmetrics_cosine
    return functions


def plain(case: Case) -> Function:
    if case.op == "similarity_z":
        return lambda x: torch.cat(reference.task_similarity_z(x["prompts"], x["start"], None, None, 1e-8)[::3])
    return lambda x: reference.task_similarity(x["prompts"], x["start"], None, None, "cosine", 1e-8)[0]
