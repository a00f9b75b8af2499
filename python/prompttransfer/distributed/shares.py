"""Losses of a batch that several processes share.

DistributedDataParallel averages the gradients of the processes. A loss is a mean over tokens, rows or positions, of
which the processes have different numbers, so the mean of their means is another number. With the functions here, the
average over the processes of what each of them computes is the loss of the whole batch, and so is its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from prompttransfer.distributed import processes

# Rows that this process reads count so often: 0 where a batch has fewer rows than there are processes, and this one
# reads a row of another's only because all of them have to take part.
_counted: float | Tensor = 1.0


def share_of(batch: Sequence[int]) -> Sequence[int]:
    """The rows of a batch that this process reads; none where there are fewer than processes."""
    return processes.mine(batch)


@contextmanager
def counted(times: Tensor | None) -> Iterator[None]:
    """Inside, the rows of this process count so often: 1, or 0; none is 1."""
    global _counted
    _counted = 1.0 if times is None else times
    try:
        yield
    finally:
        _counted = 1.0


def whole_mean(mean: Tensor, count: Tensor | int) -> Tensor:
    """The mean over the whole batch, from the mean over this process's part of it; with one process, that mean.

    Every process must call it, in the same order.

    Args:
        mean: (), of this process's part; its gradient is kept.
        count: how many tokens (or rows, or positions) that is a mean of, a tensor () or a number.

    Returns:
        (), of the type of mean.
    """
    if processes.count() == 1:
        return mean
    mine = mean.new_tensor(count) if isinstance(count, int) else count.to(mean)
    mine = mine * _counted
    return mean * (processes.count() * mine / processes.total(mine).clamp(min=1))


def whole_sum(value: Tensor) -> Tensor:
    """The sum over the processes of a part that each of them has of a loss."""
    return value if processes.count() == 1 else value * processes.count()


def whole_counts(counts: Tensor) -> tuple[Tensor, Tensor | float]:
    """Counts over the whole batch from those of this process's part, and how often its own rows count."""
    return (counts, 1.0) if processes.count() == 1 else (processes.total(counts * _counted), _counted)
