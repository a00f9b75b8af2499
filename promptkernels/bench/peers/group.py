"""A forward pass of DTVG: similarities, grouping, merge."""

from __future__ import annotations

import torch
from torch import Tensor

from promptkernels import reference
from promptkernels.bench.cases import Case, Function, Inputs


def similarity_call(a: Tensor, b: Tensor) -> Tensor:
    return (a.mean(dim=0) * b.mean(dim=0)).mean(dim=0)


def pair_calls(x: Inputs) -> Tensor:
    """As published: one Python call per ordered pair of every prefix of the ranking, scaling both rows each time.

    With n sources of similarity >= 0, there is one call per source, then (n - 1) n (n + 1) / 3 calls.
    """
    vectors = [prompt - x["start"] for prompt in x["prompts"]]
    scale = x["scale"].detach()

    def scaled(task: int) -> Tensor:
        return (vectors[task].T * scale[task]).T

    target = len(vectors) - 1
    wanted = scaled(target)
    to_target = [similarity_call(wanted, scaled(task)) for task in range(target)]
    ranking = sorted(range(target), key=lambda task: to_target[task], reverse=True)
    ranking = ranking[: sum(bool(value >= 0) for value in to_target)]
    consistencies: list[Tensor | int] = [0]
    for size in range(2, len(ranking) + 1):
        pairs = []
        for i in ranking[:size]:
            left = scaled(i)
            for j in ranking[:size]:
                right = scaled(j)
                if i != j:
                    pairs.append(similarity_call(left, right))
        consistencies.append(torch.tensor(pairs).mean(dim=0))
    group = ranking[: int(torch.argmax(torch.tensor(consistencies))) + 1]
    merged = x["start"]
    for task in [*group, target]:
        merged = merged + (vectors[task].T * x["scale"][task]).T
    return merged


def eager_step(x: Inputs) -> Tensor:
    """The best eager form: token means, one small matrix product, and grouping and merging on the device."""
    vectors = x["prompts"] - x["start"]
    scaled = vectors * x["scale"].unsqueeze(-1)
    means = scaled.detach().mean(dim=1)
    group = reference.select_group(means @ means.T, len(means) - 1)
    return x["start"] + (scaled * group.to(vectors.dtype)[:, None, None]).sum(0)


def peers(case: Case, inputs: Inputs) -> dict[str, Function]:
    return {"pair calls": pair_calls, "eager": eager_step}


def plain(case: Case) -> Function:
    return eager_step
