"""SVGD particles: M prompts that together approximate a posterior (Liu & Wang 2016)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule, put_first


class ParticlePrompts(PromptModule):
    """M particles (M, L, H); row b of a batch reads particle task_ids[b].

    Args:
        particles: start, (M, L, H).
        reference: (L, H), P_init: the centre of a Gaussian prior.
        bandwidth: a number or a convention, see `promptkernels.svgd_direction`.
        per_token: one kernel per prompt token.
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
        # Mean pair distance and bandwidth per update, left on the device.
        self.log: list[tuple[Tensor, Tensor]] = []

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
        """Make an optimizer that descends follow SVGD: .grad = g becomes -phi(score = -evidence * g) / evidence."""
        particles = self.particles
        phi, (_, h) = pk.svgd_direction(
            particles,
            -evidence * particles.grad,
            bandwidth=self.bandwidth,
            per_token=self.per_token,
            return_kernel=True,
        )
        particles.grad.copy_(-phi / evidence)
        self.log.append((self.mean_distance(), h.mean()))

    @torch.no_grad()
    def mean_distance(self) -> Tensor:
        """Mean Euclidean distance over the pairs of particles (0 for a single one)."""
        if self.count == 1:
            return self.particles.new_zeros(())
        return torch.pdist((self.particles - self.reference).flatten(1)).mean()

    def history(self) -> dict[str, Any]:
        return {
            "mean_distance": [distance.item() for distance, _ in self.log],
            "bandwidth": [h.item() for _, h in self.log],
        }

    def restore_history(self, history: dict[str, Any]) -> None:
        pairs = zip(history["mean_distance"], history["bandwidth"], strict=True)
        self.log = [(torch.tensor(distance), torch.tensor(h)) for distance, h in pairs]
