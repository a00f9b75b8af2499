"""DePT's prompt (Shi, Lipani 2024): a short matrix, and a low-rank offset of the embeddings of the text behind it."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompttransfer.prompts.base import PromptModule, linear_start, put_first, speeds


class OffsetPrompt(PromptModule):
    """A matrix P (m, H), and A (S, r), B (r, H): token i of a row, of embedding e_i, is read as e_i + (A B)_i.

    Positions count the tokens of the row, from 0, whichever side the padding is on. Tokens from position S on are read
    as they are. A starts at random, B at 0, so that the text is first read as it is.

    Args:
        start: (m, H), where P starts.
        positions: S.
        rank: r.
        seed: start of A.
    """

    per_instance: ClassVar[bool] = True

    def __init__(self, start: Tensor, positions: int, rank: int, *, seed: int = 0) -> None:
        super().__init__(*start.shape)
        self.short = nn.Parameter(start.detach().float().clone())
        self.offset_a = nn.Parameter(linear_start(positions, rank, torch.Generator().manual_seed(seed)))
        self.offset_b = nn.Parameter(torch.zeros(rank, self.hidden_size))

    @classmethod
    def of(cls, tensors: dict[str, Tensor]) -> OffsetPrompt:
        """The prompt of a file with its `tensors`.

        Raises:
            ValueError: tensors that do not fit together.
        """
        if any(tensors[name].dim() != 2 for name in ("short", "offset_a", "offset_b")):
            raise ValueError("short, offset_a and offset_b: want (m, H), (S, r) and (r, H)")
        prompt = cls(tensors["short"], *tensors["offset_a"].shape)
        prompt.fill(tensors)
        return prompt

    def offset_of_rows(self, mask: Tensor) -> Tensor:
        """What is added to the embeddings of rows with mask (B, S'): (B, S', H) float32, 0 for padding."""
        positions = len(self.offset_a)
        with torch.autocast(mask.device.type, enabled=False):
            offset = F.pad(self.offset_a @ self.offset_b, (0, 0, 0, 1))  # the last row is for all that has no offset
        places = (mask.cumsum(dim=1) - 1).clamp(max=positions).masked_fill(mask == 0, positions)
        return F.embedding(places, offset)

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            mask = torch.ones(input_embeds.shape[:2], dtype=torch.int64, device=input_embeds.device)
        return put_first(self.short, input_embeds + self.offset_of_rows(mask).to(input_embeds.dtype))

    def composed(self, task: int = 0) -> Tensor:
        raise TypeError("an OffsetPrompt changes the text of the row: no matrix alone has its effect")

    def parameter_groups(self, learning_rate: float, offset_rate: float | None = None) -> list[dict[str, Any]]:
        """Two speeds: P, and A with B (the same when not given)."""
        return speeds(learning_rate, ([self.short], None), ([self.offset_a, self.offset_b], offset_rate))
