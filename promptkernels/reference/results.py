"""Leave out gradients that are not needed."""

from __future__ import annotations

from torch import Tensor


def needed(gradients: tuple[Tensor | None, ...], needs: list[bool], like: Tensor) -> tuple[Tensor, ...]:
    """Replace gradients that are not needed by empty tensors, because an operation can return only tensors."""
    return tuple(
        gradient.contiguous() if need else like.new_empty(0) for gradient, need in zip(gradients, needs, strict=True)
    )
