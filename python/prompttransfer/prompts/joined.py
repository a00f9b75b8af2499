"""A target's prompt plus the scaled task vectors of related sources: P_t + sum_s alpha_s T_s."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule, put_first, speeds


class JoinedPrompt(PromptModule):
    """A target's prompt P_t (L, H), frozen task vectors T_s (L, H) of sources, and trained scales alpha_s.

    It starts at P_init + (1 - weight) (own - P_init) + weight * the mean of the T_s.

    Args:
        start: P_init (L, H).
        own: the target's prompt (L, H) so far.
        sources: prompts of the sources (K, L, H).
        weight: weight of the sources, 0 to 1; at 0 the prompt starts at `own`.
        scaling: one alpha per source and token ("per-token"), or one per source ("scalar").
    """

    vectors: Tensor

    def __init__(
        self, start: Tensor, own: Tensor, sources: Tensor, weight: float, *, scaling: str = "per-token"
    ) -> None:
        super().__init__(*start.shape)
        start, count = start.detach().float(), len(sources)
        self.prompt = nn.Parameter(torch.lerp(own.detach().float(), start, weight))
        scales = self.length if scaling == "per-token" else 1
        self.source_scale = nn.Parameter(torch.full((count, scales), weight / count))
        self.register_buffer("vectors", sources.detach().float() - start, persistent=False)

    def _merged(self) -> Tensor:
        scale = self.source_scale.expand(-1, self.length)
        merged = pk.merge_task_vectors(torch.zeros_like(self.prompt), self.vectors, scale)
        return self.prompt + merged

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return put_first(self._merged(), input_embeds)

    @torch.no_grad()
    def composed(self, task: int = 0) -> Tensor:
        return self._merged().float()

    def parameter_groups(self, learning_rate: float, source_rate: float | None = None) -> list[dict[str, Any]]:
        """Groups of P_t at learning_rate and the sources' scales at source_rate. Default: learning_rate."""
        return speeds(learning_rate, ([self.prompt], None), ([self.source_scale], source_rate))
