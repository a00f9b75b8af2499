"""DePT's prompt (Shi, Lipani 2024): a short matrix, and a low-rank offset of the embeddings of the text after it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompttransfer.prompts.base import PromptModule, linear_start, put_first, speeds


class OffsetPrompt(PromptModule):
    """Prompt P (m, H) and offset A (S, r) B (r, H): the embedding e_i of token i of a row becomes e_i + (A B)_i.

    Positions count the tokens of the row from 0, on whichever side the padding is. Tokens from position S on stay
    unchanged. A starts at random and B at 0, so the text starts unchanged.

    Args:
        start: start of P, (m, H).
        positions: S.
        rank: r.
        seed: seed of the start of A.
    """

    per_instance: ClassVar[bool] = True

    def __init__(self, start: Tensor, positions: int, rank: int, *, seed: int = 0) -> None:
        super().__init__(*start.shape)
        self.short = nn.Parameter(start.detach().float().clone())
        self.offset_a = nn.Parameter(linear_start(positions, rank, torch.Generator().manual_seed(seed)))
        self.offset_b = nn.Parameter(torch.zeros(rank, self.hidden_size))

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> OffsetPrompt:
        """Build the prompt from the tensors of its file."""
        if any(tensors[name].dim() != 2 for name in ("short", "offset_a", "offset_b")):
            raise ValueError("short, offset_a and offset_b: want (m, H), (S, r) and (r, H)")
        prompt = cls(tensors["short"], *tensors["offset_a"].shape)
        prompt.fill(tensors)
        return prompt

    def offset_of_rows(self, mask: Tensor) -> Tensor:
        """Offsets (B, S', H), float32, of the embeddings of rows with mask (B, S'); 0 for padding."""
        positions = len(self.offset_a)
        with torch.autocast(mask.device.type, enabled=False):
            offset = F.pad(self.offset_a @ self.offset_b, (0, 0, 0, 1))  # the last row is for tokens without an offset
        places = (mask.cumsum(dim=1) - 1).clamp(max=positions).masked_fill(mask == 0, positions)
        return F.embedding(places, offset)

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            mask = torch.ones(input_embeds.shape[:2], dtype=torch.int64, device=input_embeds.device)
        return put_first(self.short, input_embeds + self.offset_of_rows(mask).to(input_embeds.dtype))

    def composed(self, task: int = 0) -> Tensor:
        raise TypeError("an OffsetPrompt changes the text of the row, so it has no finished prompt; use prepend")

    def parameter_groups(self, learning_rate: float, offset_rate: float | None = None) -> list[dict[str, Any]]:
        """Groups of P at learning_rate, and of A and B at offset_rate. Default: learning_rate."""
        return speeds(learning_rate, ([self.short], None), ([self.offset_a, self.offset_b], offset_rate))
