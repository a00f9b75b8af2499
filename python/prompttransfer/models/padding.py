"""Pad rows of different lengths into one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def padded(rows: Sequence[Sequence[int]], filling: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Pad rows of numbers to (B, longest) int64; also return the mask, 1 where a value is not padding."""
    longest = max(map(len, rows), default=0)
    ids = torch.full((len(rows), longest), filling, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.int64)
        mask[index, place] = 1
    return ids, mask


def extended(mask: Tensor, length: int) -> Tensor:
    """Extend a mask (B, N) by `length` ones at the front."""
    return torch.cat([mask.new_ones(len(mask), length), mask], dim=1)


def without_gap(embeds: Tensor, mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Move the padding between prompt and text before the prompt, in rows (B, L+S, H) padded on the left.

    Args:
        mask: mask of the text, (B, S).
        length: prompt tokens L.

    Returns:
        The rows and their mask (B, L+S). Windows, recurrent layers and distances between positions are then as for the
        row alone.
    """
    rows, positions, width = embeds.shape
    place = torch.arange(positions, device=mask.device)
    padding = mask.argmax(dim=1, keepdim=True)
    moved = torch.where(place < padding + length, place - padding, place)
    moved = torch.where(place < padding, place + length, moved)
    moved = moved + torch.arange(rows, device=mask.device)[:, None] * positions
    whole = extended(mask, length).flatten()[moved]
    return embeds.reshape(-1, width).index_select(0, moved.flatten()).view_as(embeds), whole
