"""Losses of a batch that is split over several processes.

DistributedDataParallel averages the gradients of the processes. A loss is a mean over tokens, rows or positions, and
their number differs between processes, so the mean of the processes' means would be wrong. With these functions, the
average over the processes is the loss of the whole batch, and likewise its gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from prompttransfer.distributed import processes

# Weight of the rows that this process reads: 0 if a batch has fewer rows than there are processes, and this process
# reads another's row only because all of them must take part.
_counted: float | Tensor = 1.0


@contextmanager
def counted(times: Tensor | None) -> Iterator[None]:
    """Set the weight of this process's rows inside the block: 1 or 0; None means 1."""
    global _counted
    _counted = 1.0 if times is None else times
    try:
        yield
    finally:
        _counted = 1.0


def whole_mean(mean: Tensor, count: Tensor | int) -> Tensor:
    """Rescale the mean over this process's part of a batch so that the average over the processes is the batch's mean.

    With one process, returns `mean` unchanged. Every process must call this, in the same order.

    Args:
        mean: mean over this process's part, (). Its gradient is kept.
        count: number of tokens (or rows, or positions) in that mean, a tensor () or a number.

    Returns:
        A tensor () with the type of `mean`.
    """
    if processes.count() == 1:
        return mean
    mine = mean.new_tensor(count) if isinstance(count, int) else count.to(mean)
    mine = mine * _counted
    return mean * (processes.count() * mine / processes.total(mine).clamp(min=1))


def whole_sum(value: Tensor) -> Tensor:
    """Rescale this process's part of a loss so that the average over the processes is the sum of the parts."""
    return value if processes.count() == 1 else value * processes.count()


def whole_counts(counts: Tensor) -> tuple[Tensor, Tensor | float]:
    """Counts over the whole batch, from those of this process's part, and the weight of its own rows."""
    return (counts, 1.0) if processes.count() == 1 else (processes.total(counts * _counted), _counted)
