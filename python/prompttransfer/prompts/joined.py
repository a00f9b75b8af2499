"""Prompt tuning that the task vectors of sources join on the way: P_t + sum_s alpha_s T_s."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule, put_first


class JoinedPrompt(PromptModule):
    """A target's prompt P_t (L, H) and frozen task vectors T_s (L, H) of sources, which count from `join` on.

    Before `join` this is prompt tuning bit for bit, because alpha stays 0 and its gradient is 0.

    Args:
        start: P_init (L, H), where P_t starts.
        sources: prompts of the sources (K, L, H).
        scaling: one alpha per source and token ("per-token"), or one per source ("scalar").
    """

    start: Tensor
    vectors: Tensor
    joined: Tensor

    def __init__(self, start: Tensor, sources: Tensor, *, scaling: str = "per-token") -> None:
        super().__init__(*start.shape)
        start, count = start.detach().float(), sources.shape[0]
        self.prompt = nn.Parameter(start.clone())
        self.source_scale = nn.Parameter(torch.zeros(count, self.length if scaling == "per-token" else 1))
        self.register_buffer("vectors", sources.detach().float() - start, persistent=False)
        self.register_buffer("start", start.clone(), persistent=False)
        # 1 after `join`. Saved with the parameters, so that a resumed run keeps it.
        self.register_buffer("joined", torch.zeros(count))

    @torch.no_grad()
    def join(self, weight: float = 0.0) -> None:
        """Let the sources count from now on: P_init + (1 - weight) T_t + weight * the mean of the T_s.

        At weight 0 this leaves the prompt where it is.
        """
        self.joined.fill_(1)
        self.prompt.copy_(torch.lerp(self.prompt, self.start, weight))
        self.source_scale.fill_(weight / len(self.vectors))

    def _merged(self) -> Tensor:
        scale = self.source_scale.expand(-1, self.length)
        merged = pk.merge_task_vectors(torch.zeros_like(self.prompt), self.vectors, scale, self.joined)
        return self.prompt + merged

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return put_first(self._merged(), input_embeds)

    @torch.no_grad()
    def composed(self, task: int = 0) -> Tensor:
        return self._merged().float()

    def parameter_groups(self, learning_rate: float, source_rate: float | None = None) -> list[dict[str, Any]]:
        """Two speeds: P_t, and the scales of the sources (the same when not given)."""
        rate = learning_rate if source_rate is None else source_rate
        return [{"params": [self.prompt], "lr": learning_rate}, {"params": [self.source_scale], "lr": rate}]
