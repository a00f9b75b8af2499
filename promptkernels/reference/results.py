"""How a gradient is left out."""

from __future__ import annotations

from torch import Tensor


def needed(gradients: tuple[Tensor | None, ...], needs: list[bool], like: Tensor) -> tuple[Tensor, ...]:
    """An operation returns tensors only, so a gradient nobody asked for is an empty one."""
    return tuple(
        gradient.contiguous() if need else like.new_empty(0) for gradient, need in zip(gradients, needs, strict=True)
    )
