"""The SVGD direction with an RBF kernel and the median bandwidth of Liu & Wang (2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from promptkernels import reference
from promptkernels.bench.cases import Case, Function, Inputs

BROADCAST_LIMIT = 1.5e9  # bytes; three tensors of M x M x D are in memory at once


def _bandwidth(squared: Tensor) -> Tensor:
    n = squared.shape[0]
    ordered = squared.flatten().sort().values
    return (ordered[(n * n - 1) // 2] + ordered[n * n // 2]) / 2 / math.log(n + 1)


def _gram_direction(particles: Tensor, scores: Tensor) -> Tensor:
    gram = particles @ particles.T
    norms = gram.diagonal()
    squared = (norms[:, None] + norms - 2 * gram).clamp_min(0)
    h = _bandwidth(squared)
    kernel = torch.exp(-squared / h)
    pull = kernel.sum(1, keepdim=True) * particles - kernel @ particles
    return (kernel @ scores + 2 / h * pull) / particles.shape[0]


def plain_gram(x: Inputs) -> Tensor:
    return _gram_direction(x["prompts"].flatten(1), x["scores"].flatten(1)).view_as(x["prompts"])


def centred_gram(x: Inputs) -> Tensor:
    particles = (x["prompts"] - x["start"]).flatten(1)
    return _gram_direction(particles, x["scores"].flatten(1)).view_as(x["prompts"])


def cdist_autograd(x: Inputs) -> Tensor:
    """The widely copied form, with the kernel's gradient by autograd."""
    with torch.enable_grad():
        particles = x["prompts"].flatten(1).detach().requires_grad_()
        squared = torch.cdist(particles, particles.detach()) ** 2
        kernel = torch.exp(-squared / _bandwidth(squared.detach()))
        (repulsion,) = torch.autograd.grad(-kernel.sum(), particles)
    direction = (kernel.detach() @ x["scores"].flatten(1) + repulsion) / particles.shape[0]
    return direction.view_as(x["prompts"])


def broadcast(x: Inputs) -> Tensor:
    """All differences at once, M x M x D, as in Pyro's SVGD, but with one bandwidth, where Pyro has one per number."""
    particles, scores = x["prompts"].flatten(1), x["scores"].flatten(1)
    differences = particles.unsqueeze(1) - particles.unsqueeze(0)
    squared = differences.square().sum(-1)
    h = _bandwidth(squared)
    kernel = torch.exp(-squared / h)
    attraction = kernel @ scores
    repulsion = (kernel.unsqueeze(-1) * differences).sum(1) * (2 / h)
    return ((attraction + repulsion) / particles.shape[0]).view_as(x["prompts"])


def peers(case: Case, inputs: Inputs) -> dict[str, Function]:
    functions: dict[str, Function] = {
        "centred Gram": centred_gram,
        "plain Gram": plain_gram,
        "cdist + autograd": cdist_autograd,
    }
    particles, length, hidden = inputs["prompts"].shape
    if 3 * 4 * particles**2 * length * hidden <= BROADCAST_LIMIT:
        functions["broadcast (Pyro)"] = broadcast
    return functions


def plain(case: Case) -> Function:
    return lambda x: reference.svgd_direction(x["prompts"], x["scores"], 0.0, "liu2016", False)[0]
