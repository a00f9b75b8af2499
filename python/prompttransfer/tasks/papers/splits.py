"""How the papers split public sets that hide their test labels: the rule of Compacter, ATTEMPT, MPT and DTVG.

Rows are put in the order of `torch.randperm` with a generator seeded by the data seed (42 if not said otherwise), then

- halves (small sets): training rows are those of the hub; the validation rows are cut in half, the first half for
  validation, the second for test;
- thousand (large sets): 1,000 training rows are taken for validation, the others train; the validation rows of the hub
  (Yelp: its test rows) are the test set;
- own (MNLI: mismatched and matched; PAWS and others with public test rows): the splits of the hub.

Every part is in the order of the permutation, so that its first n rows are a random draw.
"""

from __future__ import annotations

import numpy as np
import torch

from prompttransfer.tasks.papers.spec import Splits

PARTS = ("train", "validation", "test")
VALIDATION_ROWS = 1000


def hub_splits(splits: Splits, part: str) -> tuple[str, ...]:
    """Splits of the hub that the rows of a part (train, validation or test) come from."""
    if part == "validation":
        return {"halves": splits.test, "thousand": splits.train, "own": splits.validation}[splits.rule]
    return splits.train if part == "train" else splits.test


def part_rows(splits: Splits, part: str, rows: int, seed: int) -> np.ndarray:
    """Which of `rows` rows of `hub_splits` make a part: their indices in order, none twice."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).numpy()
    if splits.rule == "halves" and part != "train":
        return order[: rows // 2] if part == "validation" else order[rows // 2 :]
    if splits.rule == "thousand" and part != "test":
        # A cut of a set, for a try, may have fewer rows than are to be taken.
        taken = min(VALIDATION_ROWS, rows // 2)
        return order[:taken] if part == "validation" else order[taken:]
    return order
