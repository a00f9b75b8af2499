"""Batches of row indices: plain batches of one task, and MPT's stochastic task sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

# Task probabilities: by number of rows, capped (t5) or not, by its logarithm, or equal.
Mixing = Literal["t5", "proportional", "log", "equal"]
_T5_CAP = 2**18  # T5's examples-proportional mixing caps the size of large tasks


class Cursor:
    """Row indices in random order, reshuffled whenever they run out."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size = size
        self._rng = rng
        self._left: list[int] = []

    def take(self, count: int) -> list[int]:
        indices: list[int] = []
        while len(indices) < count:
            if not self._left:
                self._left = self._rng.permutation(self._size).tolist()
            missing = count - len(indices)
            indices += self._left[:missing]
            self._left = self._left[missing:]
        return indices


def row_batches(
    size: int,
    batch_size: int,
    updates: int,
    seed: int | Sequence[int],
    *,
    lengths: Sequence[int] | None = None,
    pool: int = 8,
) -> list[list[int]]:
    """Batches of row indices. Every row is used once before any is used again.

    With `lengths`, the rows of every `pool` batches are sorted by length before they are cut into batches, and these
    batches are shuffled. This saves padding.
    """
    rng = np.random.default_rng(seed)
    cursor = Cursor(size, rng)
    batches = [cursor.take(batch_size) for _ in range(updates)]
    if lengths is None:
        return batches
    for first in range(0, updates, pool):
        rows = sorted((row for batch in batches[first : first + pool] for row in batch), key=lambda row: lengths[row])
        cut = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
        batches[first : first + pool] = [cut[index] for index in rng.permutation(len(cut))]
    return batches


def mixing_probabilities(sizes: Sequence[int], mixing: str) -> np.ndarray:
    """Probability of drawing each task: t5 (proportional up to 2^18 rows), proportional, log, equal."""
    counts = np.asarray(sizes, dtype=float)
    if mixing == "t5":
        weights = np.minimum(counts, _T5_CAP)
    elif mixing == "proportional":
        weights = counts
    elif mixing == "log":
        weights = np.log1p(counts)
    elif mixing == "equal":
        weights = np.ones_like(counts)
    else:
        raise ValueError(f"mixing: got {mixing!r}, want t5, proportional, log or equal")
    return weights / weights.sum()


def task_batches(
    sizes: Sequence[int], batch_size: int, updates: int, seed: int, *, mixing: str = "t5", replacement: bool = True
) -> list[list[tuple[int, int]]]:
    """MPT's stochastic task sampling (Wang et al. 2023, section 3.2): batches of (task, row of the task).

    For each batch, K ~ Uniform{2..T} tasks are drawn (with replacement, so fewer may be distinct). Each supplies
    floor(B / K) rows, and one of them also the remainder. If B <= K, there are B draws of one row. Every task keeps its
    own shuffled cursor.
    """
    rng = np.random.default_rng(seed)
    tasks = len(sizes)
    odds = mixing_probabilities(sizes, mixing)
    cursors = [Cursor(size, rng) for size in sizes]
    batches = []
    for _ in range(updates):
        count = int(rng.integers(2, tasks + 1)) if tasks > 1 else 1
        drawn = rng.choice(tasks, size=count, replace=replacement, p=odds).tolist()
        if batch_size <= count:
            shares = [1] * batch_size
        else:
            shares = [batch_size // count] * count
            shares[int(rng.integers(count))] += batch_size % count
        batch = [(task, row) for task, share in zip(drawn, shares, strict=False) for row in cursors[task].take(share)]
        batches.append([batch[index] for index in rng.permutation(len(batch))])
    return batches


def mixed_batches(
    sizes: Sequence[int], batch_size: int, updates: int, seed: int, *, mixing: str = "t5"
) -> list[list[tuple[int, int]]]:
    """Batches of (task, row of the task) from a plain mixture: the task of every row is drawn independently."""
    rng = np.random.default_rng(seed)
    odds = mixing_probabilities(sizes, mixing)
    cursors = [Cursor(size, rng) for size in sizes]
    drawn = rng.choice(len(sizes), size=(updates, batch_size), p=odds).tolist()
    return [[(task, cursors[task].take(1)[0]) for task in batch] for batch in drawn]


def flatten(batches: list[list[tuple[int, int]]], sizes: Sequence[int]) -> list[list[int]]:
    """Convert (task, row) to an index into the concatenated rows of all tasks."""
    offsets = [0, *np.cumsum(sizes).tolist()]
    return [[offsets[task] + row for task, row in batch] for batch in batches]


def split_updates(total: int, fraction: float) -> tuple[int, int]:
    """Split a budget of updates between two stages. Each gets at least one."""
    if total < 2:
        raise ValueError(f"cannot split a budget of {total} updates between two stages; it takes at least 2")
    first = min(max(1, math.floor(fraction * total + 0.5)), total - 1)
    return first, total - first
