"""DTVG's choice of source tasks to merge."""

from __future__ import annotations

import torch
from torch import Tensor

from promptkernels.backends.native import Native, typed
from promptkernels.backends.types import accumulation_type
from promptkernels.ops import arguments
from promptkernels.ops.checks import Sizes
from promptkernels.ops.table import Operation


def _fits(similarity: Tensor, target: int) -> None:
    n, _ = arguments.sizes("similarity", similarity, "NN")
    arguments.fits("similarity", similarity, (n, n), similarity.get_device())
    if not 0 <= target < n:
        raise IndexError(f"target must be in 0..{n - 1}, got {target}")


def _outputs(similarity: Tensor, target: int) -> Tensor:
    return similarity.new_empty(similarity.shape[:1], dtype=torch.bool)


def _native(native: Native, chosen: Tensor, similarity: Tensor, target: int) -> None:
    (similarity,) = typed(accumulation_type(similarity), similarity)
    wide, n = similarity.dtype == torch.float64, similarity.shape[0]
    native.run(native.module.select_group, similarity.device, similarity.data_ptr(), wide, n, target, chosen.data_ptr())


_select = Operation(
    "select_group",
    "(Tensor similarity, int target) -> Tensor",
    check=_fits,
    outputs=_outputs,
    native=_native,
    differentiable=False,
)


def select_group(similarity: Tensor, target: int) -> Tensor:
    """Select the rows to merge for a target: the target and its group of sources (DTVG 2025, greedy prefix rule).

    Sources with similarity >= 0 to the target are ranked by it (ties: lower index first). Every prefix of the ranking
    is scored by its knowledge consistency, the mean similarity over its ordered pairs (0 for a single source). The
    group is the first prefix with the best score. If no source has similarity >= 0, the target is alone. Everything
    runs on the device.

    Args:
        similarity: (T+1, T+1), pairwise similarity of the sources and the target.
        target: index of the target's row, 0..T.

    Returns:
        (T+1,) bool, True for the target and its group. ``select_group(...).float()`` can be passed as ``weights`` to
        `merge_task_vectors`. Not differentiable.

    Raises:
        ValueError: similarity is not a square floating matrix, or target is not an int.
        IndexError: target is outside 0..T.
    """
    if isinstance(target, int) and _select.ready(similarity, target):
        return _select.run(similarity, target)
    Sizes().floating("similarity", similarity, "NN")
    if not isinstance(target, int):
        raise ValueError(f"target must be an int, got {target!r}")
    if not 0 <= target < similarity.shape[0]:
        raise IndexError(f"target must be in 0..{similarity.shape[0] - 1}, got {target}")
    return _select(similarity.detach(), target)
