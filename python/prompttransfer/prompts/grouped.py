"""DTVG's prompt: P_init + alpha_t T_t + the scaled vectors of a group of sources, chosen anew at every forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule, put_first

GROUPINGS = ("dynamic", "fixed", "all", "none")


class GroupedPrompt(PromptModule):
    """Merged task vectors with per-token scales, all starting at one.

    Args:
        start: P_init (L, H), common to all prompts here.
        sources: frozen source prompts (K, L, H).
        target: the target's own prompt (L, H), trained further.
        grouping: "dynamic" (chosen at every forward), "fixed" (chosen at the first), "all" or "none" of the sources.
    """

    start: Tensor
    sources: Tensor

    def __init__(self, start: Tensor, sources: Tensor, target: Tensor, *, grouping: str = "dynamic") -> None:
        super().__init__(*start.shape)
        if grouping not in GROUPINGS:
            raise ValueError(f"grouping: got {grouping!r}, want one of {', '.join(GROUPINGS)}")
        self.register_buffer("start", start.detach().float().clone(), persistent=False)
        self.register_buffer("sources", sources.detach().float().clone(), persistent=False)
        self.prompt = nn.Parameter(target.detach().float().clone())
        self.target_scale = nn.Parameter(torch.ones(self.length))
        self.source_scale = nn.Parameter(torch.ones(sources.shape[0], self.length))
        self.grouping = grouping
        # One bool row per forward, left on the device: reading it there would stall a GPU at every step.
        self.group_log: list[Tensor] = []
        # The group of "fixed", found at the first forward; saved with the parameters, so that a resumed run keeps it.
        self.register_buffer("fixed_group", torch.zeros(sources.shape[0] + 1, dtype=torch.bool, device=start.device))

    def _stacked(self) -> tuple[Tensor, Tensor]:
        prompts = torch.cat([self.sources, self.prompt[None]])
        return prompts, torch.cat([self.source_scale, self.target_scale[None]])

    @torch.no_grad()
    def similarity(self) -> Tensor:
        """(K+1, K+1): dot products of the token means of the scaled task vectors; the target is the last row."""
        prompts, scale = self._stacked()
        return pk.task_similarity(prompts, self.start, metric="token_mean_dot", scale=scale)

    @torch.no_grad()
    def group(self) -> Tensor:
        """(K+1,) bool: the sources merged now, and the target itself (last)."""
        count = self.sources.shape[0]
        if self.grouping in ("all", "none"):
            mask = torch.full((count + 1,), self.grouping == "all", device=self.prompt.device)
            mask[count] = True
            return mask
        chosen = pk.select_group(self.similarity(), count)
        if self.grouping == "fixed":
            # The target is always in a group, so its entry tells whether the group has been found.
            chosen = torch.where(self.fixed_group[count], self.fixed_group, chosen)
            self.fixed_group.copy_(chosen)
        return chosen

    def merged(self, group: Tensor) -> Tensor:
        """P_mix (L, H) of a group."""
        prompts, scale = self._stacked()
        return pk.merge_task_vectors(self.start, prompts, scale, group.float())

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        group = self.group()
        if torch.is_grad_enabled():
            self.group_log.append(group)
        return put_first(self.merged(group), input_embeds)

    @torch.no_grad()
    def composed(self, task: int = 0) -> Tensor:
        return self.merged(self.group()).float()

    def history(self) -> dict[str, Any]:
        return {"groups": [row.tolist() for row in self.group_log]}

    def restore_history(self, history: dict[str, Any]) -> None:
        self.group_log = [torch.tensor(row, device=self.prompt.device) for row in history["groups"]]

    def parameter_groups(
        self, learning_rate: float, target_rate: float | None = None, source_rate: float | None = None
    ) -> list[dict[str, Any]]:
        """Three speeds: prompt, target scale, source scales (each learning_rate when not given)."""
        return [
            {"params": [self.prompt], "lr": learning_rate},
            {"params": [self.target_scale], "lr": learning_rate if target_rate is None else target_rate},
            {"params": [self.source_scale], "lr": learning_rate if source_rate is None else source_rate},
        ]
