"""Prompt tuning that related sources join on the way: P_t + sum_s alpha_s T_s."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule, put_first
from prompttransfer.prompts.sign_test import SignTest, sign_test


class JoinedPrompt(PromptModule):
    """A target's prompt P_t (L, H) and the frozen task vectors T_s (L, H) of sources, which count from `join` on.

    Before `join`, and after it when no source is related, this is prompt tuning bit for bit: alpha stays 0 and its
    gradient is 0. Scales start at 0, which leaves the prompt where it is, so the loss does not jump.

    Args:
        start: P_init (L, H), where P_t starts.
        sources: prompts of the sources (K, L, H).
        level: of `sign_test`.
        scaling: one alpha per source and token ("per-token"), or one per source ("scalar").
    """

    start: Tensor
    vectors: Tensor
    joined: Tensor

    def __init__(self, start: Tensor, sources: Tensor, *, level: float, scaling: str = "per-token") -> None:
        super().__init__(*start.shape)
        count = sources.shape[0]
        self.level = level
        self.test: SignTest | None = None
        self.prompt = nn.Parameter(start.detach().float().clone())
        self.source_scale = nn.Parameter(torch.zeros(count, self.length if scaling == "per-token" else 1))
        self.register_buffer("start", start.detach().float().clone(), persistent=False)
        self.register_buffer("vectors", sources.detach().float() - self.start, persistent=False)
        # 1 for a source that has joined. Saved with the parameters, so that a resumed run keeps it.
        self.register_buffer("joined", torch.zeros(count))

    @torch.no_grad()
    def join(self) -> bool:
        """Let the related sources in; returns whether there are any."""
        self.test = sign_test(self.prompt, self.start + self.vectors, self.start, self.level)
        self.joined[self.test.related] = 1
        return bool(self.test.related)

    def _merged(self) -> Tensor:
        scale = self.source_scale.expand(-1, self.length)
        merged = pk.merge_task_vectors(torch.zeros_like(self.prompt), self.vectors, scale, self.joined)
        return self.prompt + merged

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return put_first(self._merged(), input_embeds)

    @torch.no_grad()
    def composed(self, task: int = 0) -> Tensor:
        return self._merged().float()

    def history(self) -> dict[str, Any]:
        return {"related": self.test.history()} if self.test else {}

    def restore_history(self, history: dict[str, Any]) -> None:
        self.test = SignTest(**history["related"]) if "related" in history else None

    def parameter_groups(self, learning_rate: float, source_rate: float | None = None) -> list[dict[str, Any]]:
        """Two speeds: P_t, and the scales of the sources (the same when not given)."""
        rate = learning_rate if source_rate is None else source_rate
        return [{"params": [self.prompt], "lr": learning_rate}, {"params": [self.source_scale], "lr": rate}]
