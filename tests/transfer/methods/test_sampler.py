"""Rows of every update."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
import torch

from prompttransfer.methods.sampler import (
    flatten,
    mixed_batches,
    mixing_probabilities,
    row_batches,
    split_updates,
    task_batches,
)


def test_row_batches_use_every_row_once_before_any_twice() -> None:
    batches = row_batches(10, 4, 10, seed=3)
    flat = [row for batch in batches for row in batch]
    for epoch in range(4):
        assert sorted(flat[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert batches == row_batches(10, 4, 10, seed=3) != row_batches(10, 4, 10, seed=4)
    assert row_batches(10, 4, 5, seed=3) == batches[:5]


def test_length_buckets_keep_the_rows_and_save_padding() -> None:
    lengths = [(index * 37) % 50 for index in range(64)]
    plain = row_batches(64, 8, 8, seed=0)
    bucketed = row_batches(64, 8, 8, seed=0, lengths=lengths)
    assert sorted(chain(*plain)) == sorted(chain(*bucketed))
    width = [sum(max(lengths[row] for row in batch) for batch in batches) for batches in (plain, bucketed)]
    assert width[1] < 0.7 * width[0]


def test_flatten_and_split() -> None:
    assert flatten([[(0, 1), (1, 0), (2, 2)]], [3, 4, 5]) == [[1, 3, 9]]
    assert split_updates(30, 0.5) == (15, 15)
    assert split_updates(3, 0.01) == (1, 2)
    with pytest.raises(ValueError, match="budget of 1"):
        split_updates(1, 0.5)


def test_task_sampler_rules_and_frequencies() -> None:
    sizes = [100, 300, 600]
    batches = task_batches(sizes, 12, 4000, seed=0)
    assert all(len(batch) == 12 for batch in batches)
    distinct = Counter(len({task for task, _ in batch}) for batch in batches)
    assert set(distinct) == {1, 2, 3}  # with replacement there can be fewer than K >= 2
    share = torch.tensor([sum(task == which for batch in batches for task, _ in batch) for which in range(3)]) / 48_000
    torch.testing.assert_close(share, torch.tensor([0.1, 0.3, 0.6]), rtol=0, atol=0.02)
    assert all(0 <= row < sizes[task] for batch in batches for task, row in batch)


def test_task_sampler_without_replacement_gives_k_distinct_tasks() -> None:
    batches = task_batches([50] * 4, 13, 3000, seed=0, mixing="equal", replacement=False)
    counts = Counter()
    for batch in batches:
        per_task = Counter(task for task, _ in batch)
        k = len(per_task)
        counts[k] += 1
        expected = sorted([13 // k] * (k - 1) + [13 // k + 13 % k])
        assert sorted(per_task.values()) == expected
    assert set(counts) == {2, 3, 4}
    assert all(abs(count / 3000 - 1 / 3) < 0.04 for count in counts.values())


def test_task_sampler_with_small_batches_and_wrapping_cursors() -> None:
    (batch,) = task_batches([5] * 8, 2, 1, seed=0, replacement=False)
    assert len(batch) == 2
    batches = task_batches([5, 5], 4, 50, seed=0, replacement=False)
    rows = [row for batch in batches for task, row in batch if task == 0]
    uses = Counter(rows)
    assert max(uses.values()) - min(uses.values()) <= 1  # no row comes twice before every row has come once
    assert all(len(batch) == 3 for batch in task_batches([7], 3, 4, seed=0))


def test_mixing_probabilities() -> None:
    assert mixing_probabilities([2**18, 2**20], "t5").tolist() == [0.5, 0.5]
    assert mixing_probabilities([1, 3], "proportional").tolist() == [0.25, 0.75]
    assert mixing_probabilities([1, 3], "equal").tolist() == [0.5, 0.5]
    assert 0.25 < mixing_probabilities([10, 30], "log")[0] < 0.5
    with pytest.raises(ValueError, match="mixing"):
        mixing_probabilities([1], "other")


def test_a_plain_mixture_draws_every_row_by_itself() -> None:
    sizes = [100, 300, 600]
    batches = mixed_batches(sizes, 12, 2000, seed=0)
    drawn = Counter(task for batch in batches for task, _ in batch)
    share = torch.tensor([drawn[task] / 24_000 for task in range(3)])
    torch.testing.assert_close(share, torch.tensor([0.1, 0.3, 0.6]), rtol=0, atol=0.02)
    # Rows are independent: the number of rows of a task in a batch is binomial, not a share of the batch.
    counts = torch.tensor([float(sum(task == 1 for task, _ in batch)) for batch in batches])
    assert counts.var().item() == pytest.approx(12 * 0.3 * 0.7, rel=0.1)
    uses = Counter(row for batch in batches for task, row in batch if task == 0)
    assert max(uses.values()) - min(uses.values()) <= 1
