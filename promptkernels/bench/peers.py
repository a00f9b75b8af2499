"""The forms people use today, written as they are found, each by its name."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from promptkernels import reference
from promptkernels.bench.cases import Case, Function, Inputs

# --- similarity -------------------------------------------------------------------------------------------------------


def normalise_matmul(x: Inputs) -> Tensor:
    vectors = torch.nn.functional.normalize((x["prompts"] - x["start"]).flatten(1))
    return vectors @ vectors.T


def torchmetrics_cosine(x: Inputs) -> Tensor:
    from torchmetrics.functional import pairwise_cosine_similarity

    vectors = (x["prompts"] - x["start"]).flatten(1)
    return pairwise_cosine_similarity(vectors, zero_diagonal=False)


# --- SVGD -------------------------------------------------------------------------------------------------------------


def _kernel(squared: Tensor) -> tuple[Tensor, Tensor]:
    n = squared.shape[0]
    ordered = squared.flatten().sort().values
    h = (ordered[(n * n - 1) // 2] + ordered[n * n // 2]) / 2 / math.log(n + 1)
    return torch.exp(-squared / h), h


def _gram_direction(particles: Tensor, scores: Tensor) -> Tensor:
    gram = particles @ particles.T
    norms = gram.diagonal()
    kernel, h = _kernel((norms[:, None] + norms - 2 * gram).clamp_min(0))
    pull = kernel.sum(1, keepdim=True) * particles - kernel @ particles
    return (kernel @ scores + 2 / h * pull) / particles.shape[0]


def centred_gram(x: Inputs) -> Tensor:
    particles = (x["prompts"] - x["start"]).flatten(1)
    return _gram_direction(particles, x["scores"].flatten(1)).view_as(x["prompts"])


def plain_gram(x: Inputs) -> Tensor:
    return _gram_direction(x["prompts"].flatten(1), x["scores"].flatten(1)).view_as(x["prompts"])


def cdist_autograd(x: Inputs) -> Tensor:
    """The widely copied form: the kernel's gradient by autograd."""
    with torch.enable_grad():
        particles = x["prompts"].flatten(1).detach().requires_grad_()
        kernel, _ = _kernel_detached(torch.cdist(particles, particles.detach()) ** 2)
        (repulsion,) = torch.autograd.grad(-kernel.sum(), particles)
    direction = (kernel.detach() @ x["scores"].flatten(1) + repulsion) / particles.shape[0]
    return direction.view_as(x["prompts"])


def _kernel_detached(squared: Tensor) -> tuple[Tensor, Tensor]:
    _, h = _kernel(squared.detach())
    return torch.exp(-squared / h), h


# --- Hadamard composition ---------------------------------------------------------------------------------------------


def peft_compose(x: Inputs) -> Tensor:
    """The forward of PEFT's MultitaskPromptEmbedding on these tensors."""
    length, batch = x["shared"].shape[0], x["task_ids"].shape[0]
    indices = torch.arange(length, device=x["shared"].device).expand(batch, length)
    prompts = torch.nn.functional.embedding(indices, x["shared"])
    columns = torch.index_select(x["u"], 0, x["task_ids"])
    rows = torch.index_select(x["v"], 0, x["task_ids"])
    prompts *= torch.matmul(columns, rows)
    return prompts


def peft_prepend(x: Inputs) -> Tensor:
    return torch.cat([peft_compose(x).to(x["embeds"].dtype), x["embeds"]], dim=1)


# --- a DTVG step ------------------------------------------------------------------------------------------------------


def _merge(x: Inputs, group: list[int]) -> Tensor:
    merged = x["start"].clone()
    for task in group:
        merged += x["scale"][task][:, None] * (x["prompts"][task] - x["start"])
    return merged


def pair_calls(x: Inputs) -> Tensor:
    """As published: one Python similarity call per pair, read back to the host."""
    vectors = [s[:, None] * (p - x["start"]) for p, s in zip(x["prompts"], x["scale"], strict=True)]

    def similarity(a: Tensor, b: Tensor) -> float:
        return torch.sum(a.mean(dim=0) * b.mean(dim=0)).item()

    target = len(vectors) - 1
    scored = [(similarity(vectors[s], vectors[target]), s) for s in range(target)]
    ranking = [s for value, s in sorted(scored, key=lambda pair: -pair[0]) if value >= 0]
    best, best_score = [], -math.inf
    for m in range(1, len(ranking) + 1):
        pairs = [(a, b) for a in ranking[:m] for b in ranking[:m] if a != b]
        score = sum(similarity(vectors[a], vectors[b]) for a, b in pairs) / len(pairs) if pairs else 0.0
        if score > best_score:
            best, best_score = ranking[:m], score
    return _merge(x, [*best, target])


def eager_step(x: Inputs) -> Tensor:
    """The best eager form: token means, one small matrix product, grouping and merging without the host."""
    vectors = (x["prompts"] - x["start"]) * x["scale"].unsqueeze(-1)
    means = vectors.mean(dim=1)
    group = reference.select_group(means @ means.T, len(means) - 1)
    return x["start"] + (vectors * group.to(vectors.dtype)[:, None, None]).sum(0)


# --- torch.compile of the plain form, for every operation -----------------------------------------------------------


def _reference(case: Case) -> Function:
    if case.op == "similarity":
        return lambda x: reference.task_similarity(x["prompts"], x["start"], None, None, "cosine", 1e-8)[0]
    if case.op == "svgd":
        return lambda x: reference.svgd_direction(x["prompts"], x["scores"], x["start"], 0.0, "liu2016", False)[0]
    if case.op == "compose":
        return lambda x: (x["shared"] * (x["u"] @ x["v"])).index_select(0, x["task_ids"])
    if case.op == "prepend":
        return lambda x: torch.cat([(x["shared"] * (x["u"] @ x["v"])).index_select(0, x["task_ids"]), x["embeds"]], 1)
    return eager_step


EAGER: dict[str, dict[str, Callable[[Inputs], Tensor]]] = {
    "similarity": {"normalise + matmul": normalise_matmul},
    "svgd": {"centred Gram": centred_gram, "plain Gram": plain_gram, "cdist + autograd": cdist_autograd},
    "compose": {"PEFT": peft_compose},
    "prepend": {"PEFT + cat": peft_prepend},
    "dtvg": {"pair calls": pair_calls, "eager": eager_step},
}
if find_spec("torchmetrics"):
    EAGER["similarity"]["torchmetrics"] = torchmetrics_cosine


def peers(case: Case, compiled: bool = True) -> dict[str, Function]:
    """The competitors of a case by name."""
    found: dict[str, Function] = dict(EAGER[case.op])
    if compiled:
        found["torch.compile"] = torch.compile(_reference(case), dynamic=False)
    return found
