"""SVGD particles: M prompts that together approximate a posterior (Liu & Wang 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule, put_first

# Values logged at every update, over the pairs of particles (and over tokens, with a kernel per token).
LOGGED = (
    "mean_distance",
    "min_distance",
    "max_distance",
    "mean_kernel",
    "min_kernel",
    "max_kernel",
    "bandwidth",
)


class ParticlePrompts(PromptModule):
    """M particles (M, L, H); row b of a batch reads particle task_ids[b].

    Args:
        particles: start of the particles, (M, L, H).
        reference: P_init (L, H), the centre of a Gaussian prior.
        bandwidth: a number or a convention, see `promptkernels.svgd_direction`.
        per_token: whether to use one kernel per prompt token.
    """

    reference: Tensor

    def __init__(
        self,
        particles: Tensor,
        reference: Tensor,
        *,
        bandwidth: float | str = "liu2016",
        per_token: bool = False,
    ) -> None:
        super().__init__(*particles.shape[1:])
        self.particles = nn.Parameter(particles.detach().float().clone())
        self.register_buffer("reference", reference.detach().float().clone(), persistent=False)
        self.bandwidth = bandwidth
        self.per_token = per_token
        # The values of LOGGED per update, kept on the device.
        self.log: list[Tensor] = []

    @property
    def count(self) -> int:
        return self.particles.shape[0]

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if task_ids is None:
            raise ValueError(f"task_ids: got none, want the particle (0..{self.count - 1}) of every row")
        return put_first(self.particles.index_select(0, task_ids), input_embeds)

    def composed(self, task: int = 0) -> Tensor:
        return self.particles[task].detach().float().clone()

    @torch.no_grad()
    def turn_gradient(self, evidence: float = 1.0) -> None:
        """Make a gradient-descent optimizer follow SVGD: .grad = g becomes -phi(score = -evidence * g) / evidence.

        Works with any optimizer of torch.optim; plain SGD gives the published update.
        """
        gradient = self.particles.grad
        assert gradient is not None  # called after a backward pass
        phi, (kernel, h) = self._direction(-evidence * gradient)
        gradient.copy_(-phi / evidence)
        self.log.append(torch.cat([_spread(self.distances(), 0.0), _spread(_pairs(kernel), 1.0), h.mean().view(1)]))

    def _direction(self, scores: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return pk.svgd_direction(
            self.particles, scores, bandwidth=self.bandwidth, per_token=self.per_token, return_kernel=True
        )

    @torch.no_grad()
    def distances(self) -> Tensor:
        """Euclidean distances of all pairs of particles, (M (M-1) / 2,)."""
        return torch.pdist((self.particles - self.reference).flatten(1))

    @torch.no_grad()
    def kernel_mean(self) -> Tensor:
        """Mean of the particles (L, H), weighted by their kernel density sum_j k(theta_i, theta_j).

        An outlier counts less than a particle close to others; per token, if the kernel is per token. For one particle,
        two particles or identical ones, this is the plain mean.
        """
        kernel, _ = self._direction(torch.zeros_like(self.particles))[1]
        density = kernel.sum(dim=-1)  # (M,), or (L, M)
        weights = (density / density.sum(dim=-1, keepdim=True)).view(-1, self.count)
        return (weights.T[..., None] * self.particles).sum(dim=0)

    def history(self) -> dict[str, Any]:
        rows = torch.stack(self.log).tolist() if self.log else []
        return {name: [row[index] for row in rows] for index, name in enumerate(LOGGED)}

    def restore_history(self, history: dict[str, Any]) -> None:
        rows = zip(*(history[name] for name in LOGGED), strict=True)
        self.log = [torch.tensor(row, device=self.particles.device) for row in rows]


def _pairs(kernel: Tensor) -> Tensor:
    """Values of a kernel (..., M, M) at the pairs i < j, flattened."""
    i, j = torch.triu_indices(kernel.shape[-1], kernel.shape[-1], 1, device=kernel.device)
    return kernel[..., i, j].flatten()


def _spread(values: Tensor, alone: float) -> Tensor:
    """Mean, smallest and largest value; `alone` if there are no pairs."""
    if not len(values):
        return values.new_full((3,), alone)
    return torch.stack([values.mean(), values.min(), values.max()])
