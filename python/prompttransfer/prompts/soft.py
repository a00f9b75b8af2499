"""One prompt, or a frozen bank of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prompttransfer.prompts.base import PromptModule, put_first


class SoftPrompt(PromptModule):
    """Prompt tuning (Lester et al. 2021): one matrix P (L, H)."""

    def __init__(self, start: Tensor) -> None:
        super().__init__(*start.shape)
        self.prompt = nn.Parameter(start.detach().float().clone())

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return put_first(self.prompt, input_embeds)

    def composed(self, task: int = 0) -> Tensor:
        return self.prompt.detach().float().clone()


class FrozenPrompts(PromptModule):
    """Finished prompts (T, L, H), one per task id: MPT's teachers, or a prompt under evaluation (T = 1)."""

    prompts: Tensor

    def __init__(self, prompts: Tensor) -> None:
        super().__init__(*prompts.shape[1:])
        self.register_buffer("prompts", prompts.detach().float().clone(), persistent=False)

    @property
    def count(self) -> int:
        return self.prompts.shape[0]

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if task_ids is None:
            task_ids = torch.zeros(input_embeds.shape[0], dtype=torch.int64, device=input_embeds.device)
        return put_first(self.prompts[task_ids], input_embeds)

    def composed(self, task: int = 0) -> Tensor:
        return self.prompts[task].clone()
