"""DTVG's prompt: P_init + alpha_t T_t + the scaled vectors of a source group, regrouped at every forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.prompts.base import PromptModule, put_first, speeds
from prompttransfer.prompts.grouping import Rule, group_rule

GROUPINGS = ("dynamic", "fixed", "all", "none")
SCALINGS = ("per-token", "scalar", "none")
SCALE_STARTS = ("one", "mean")


class GroupedPrompt(PromptModule):
    """Merged task vectors with trained scales alpha, which all start at the same number.

    Scaling, similarity, grouping and merging stay on the device. So does the log of the groups, until `history` reads
    it.

    Args:
        start: P_init (L, H) of all these prompts.
        sources: frozen source prompts (K, L, H).
        target: the target's own prompt (L, H), which trains further.
        grouping: "dynamic" (chosen at every forward), "fixed" (chosen at the first), "all" or "none" of the sources.
        rule: how to choose a group, see `prompttransfer.prompts.grouping`; None: the published rule.
        metric: metric of `promptkernels.task_similarity`.
        scaling: one alpha per prompt and token ("per-token"), one per prompt ("scalar"), or fixed alphas ("none").
        scale_start: "one", or "mean" for 1 / size of the first group. Training then starts at the mean of the group's
            vectors and not at their sum, which may be far from every prompt.
    """

    start: Tensor
    sources: Tensor
    target_scale: Tensor
    source_scale: Tensor
    fixed_group: Tensor

    def __init__(
        self,
        start: Tensor,
        sources: Tensor,
        target: Tensor,
        *,
        grouping: str = "dynamic",
        rule: Rule | None = None,
        metric: str = "token_mean_dot",
        scaling: str = "per-token",
        scale_start: str = "one",
    ) -> None:
        super().__init__(*start.shape)
        for name, value, known in (
            ("grouping", grouping, GROUPINGS),
            ("scaling", scaling, SCALINGS),
            ("scale_start", scale_start, SCALE_STARTS),
        ):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}, want one of {', '.join(known)}")
        self.register_buffer("start", start.detach().float().clone(), persistent=False)
        self.register_buffer("sources", sources.detach().float().clone(), persistent=False)
        self.prompt = nn.Parameter(target.detach().float().clone())
        width = self.length if scaling == "per-token" else 1
        for name, shape in (("target_scale", (width,)), ("source_scale", (sources.shape[0], width))):
            if scaling == "none":
                self.register_buffer(name, torch.ones(shape), persistent=False)
            else:
                self.register_parameter(name, nn.Parameter(torch.ones(shape)))
        self.grouping = grouping
        self.scaling = scaling
        self.metric = metric
        self.rule = rule or group_rule("consistent-prefix")
        # One bool row per forward with gradient. It stays on the device: reading it would stall a GPU at every step.
        self.group_log: list[Tensor] = []
        # The group of "fixed", set at the first forward; saved with the parameters, so that a resumed run keeps it.
        self.register_buffer("fixed_group", torch.zeros(sources.shape[0] + 1, dtype=torch.bool, device=start.device))
        if scale_start == "mean":
            with torch.no_grad():
                share = 1 / self.group().sum()  # a group does not depend on a common scale
                self.source_scale.mul_(share)
                self.target_scale.mul_(share)

    def _stacked(self) -> tuple[Tensor, Tensor]:
        """Prompts (K+1, L, H) and their scales (K+1, L). The last row is the target."""
        scale = torch.cat([self.source_scale, self.target_scale[None]])
        return torch.cat([self.sources, self.prompt[None]]), scale.expand(-1, self.length)

    @torch.no_grad()
    def similarity(self) -> Tensor:
        """Similarity (K+1, K+1) of the scaled task vectors. The last row is the target."""
        return self._similarity(*self._stacked())

    @torch.no_grad()
    def group(self) -> Tensor:
        """Current group, (K+1,) bool: the merged sources, and the target itself (last)."""
        return self._group(*self._stacked())

    def _similarity(self, prompts: Tensor, scale: Tensor) -> Tensor:
        return pk.task_similarity(prompts, self.start, metric=self.metric, scale=scale)

    @torch.no_grad()
    def _group(self, prompts: Tensor, scale: Tensor) -> Tensor:
        count = self.sources.shape[0]
        if self.grouping in ("all", "none"):
            mask = torch.full((count + 1,), self.grouping == "all", device=prompts.device)
            mask[count] = True
            return mask
        chosen = self.rule(self._similarity(prompts, scale), count)
        if self.grouping == "fixed":
            # The target is in every group, so its entry is set once the group has been chosen.
            chosen = torch.where(self.fixed_group[count], self.fixed_group, chosen)
            self.fixed_group.copy_(chosen)
        return chosen

    def _merged(self) -> tuple[Tensor, Tensor]:
        """Merged prompt P_mix (L, H) and its group."""
        prompts, scale = self._stacked()
        group = self._group(prompts, scale)
        return pk.merge_task_vectors(self.start, prompts, scale, group.float()), group

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        merged, group = self._merged()
        if torch.is_grad_enabled():
            self.group_log.append(group)
        return put_first(merged, input_embeds)

    @torch.no_grad()
    def composed(self, task: int = 0) -> Tensor:
        return self._merged()[0].float()

    def history(self) -> dict[str, Any]:
        return {"groups": torch.stack(self.group_log).tolist() if self.group_log else []}

    def restore_history(self, history: dict[str, Any]) -> None:
        self.group_log = [torch.tensor(row, device=self.prompt.device) for row in history["groups"]]

    def parameter_groups(
        self, learning_rate: float, target_rate: float | None = None, source_rate: float | None = None
    ) -> list[dict[str, Any]]:
        """Groups of prompt, target scale and source scales, each at its own rate. Default: learning_rate."""
        scales = (([self.target_scale], target_rate), ([self.source_scale], source_rate))
        return speeds(learning_rate, ([self.prompt], None), *scales)  # without scales that do not train
