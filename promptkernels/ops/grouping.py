"""DTVG's choice of the source tasks whose vectors are merged."""

from __future__ import annotations

import torch
from torch import Tensor

from promptkernels.ops.checks import Sizes
from promptkernels.ops.library import register


def _fake(similarity: Tensor, target: int) -> Tensor:
    return similarity.new_empty(similarity.shape[:1], dtype=torch.bool)


_select = register("select_group", "(Tensor similarity, int target) -> Tensor", _fake, differentiable=False)


def select_group(similarity: Tensor, target: int) -> Tensor:
    """The rows to merge for a target: the target itself and its group of sources (DTVG 2025; greedy prefix rule).

    Sources with similarity >= 0 to the target are ranked by it (ties: lower index first). Every prefix of the ranking
    is scored by its knowledge consistency, the mean similarity over its ordered pairs (0 for a single source), and the
    first best prefix is the group; without a source of similarity >= 0 the target stands alone. Everything happens on
    the device.

    Args:
        similarity: (T+1, T+1), of the sources and the target among each other.
        target: index of the target's row, 0..T.

    Returns:
        (T+1,) bool, True at the target and at its group; so ``select_group(...).float()`` is the ``weights`` argument
        of `merge_task_vectors`. Not differentiable.

    Raises:
        ValueError: similarity is not a square floating matrix, or target no int.
        IndexError: target is outside 0..T.
    """
    sizes = Sizes()
    sizes.floating("similarity", similarity, "NN")
    if not isinstance(target, int):
        raise ValueError(f"target must be an int, got {target!r}")
    if not 0 <= target < similarity.shape[0]:
        raise IndexError(f"target must be in 0..{similarity.shape[0] - 1}, got {target}")
    return _select(similarity.detach(), target)
