"""Cutting rows into splits, seeded."""

from __future__ import annotations

import random

from prompttransfer.tasks.task import Task, dataset

Rows = list[tuple[str, int, str]]

VALIDATION_SHARE = 0.1


def shuffled(rows: Rows, seed: int) -> Rows:
    """A seeded permutation; the order of the file does not matter afterwards."""
    rows = list(rows)
    random.Random(seed).shuffle(rows)
    return rows


def build_task(
    name: str,
    choices: tuple[str, ...],
    train: Rows,
    test: Rows | None = None,
    *,
    seed: int,
    test_share: float,
    metric: str = "accuracy",
    origin: str = "",
) -> Task:
    """A task from training rows and test rows; without test rows a share of the others becomes the test set.

    A tenth of what trains becomes the validation split. A row that is drawn for one split is in no other.
    """
    train = shuffled(train, seed)
    if test is None:
        cut = max(1, round(test_share * len(train)))
        test, train = train[:cut], train[cut:]
    else:
        test = shuffled(test, seed)
    cut = max(1, round(VALIDATION_SHARE * len(train))) if len(train) > 1 else 0
    splits = (dataset(train[cut:]), dataset(train[:cut]), dataset(test))
    return Task(name, *splits, choices=choices, metric=metric, origin=origin)
