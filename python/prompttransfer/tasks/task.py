"""A task: three splits of templated texts with the index of the right answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from datasets import Dataset, Features, Value

from prompttransfer.tasks.metrics import METRICS

# share of training and validation rows when a task comes as one table; the rest is its test set
SPLIT = (0.8, 0.1)


@dataclass(frozen=True)
class Example:
    """One row. raw: all its text, joined, untemplated (searched for leaks); text: what the model reads."""

    raw: str
    text: str
    label: int


@dataclass(frozen=True)
class Task:
    """A classification task in words.

    Attributes:
        name: also the name of its files in a run folder.
        train, validation, test: columns text (templated model input), label (index into choices), raw (untemplated).
            Their order is shuffled, so that the first n rows are a random draw.
        choices: the answer strings the model chooses from, by label.
        metric: a name known to `prompttransfer.tasks.metrics`.
        origin: where the rows came from.
        leaked: training and validation rows left out because they overlap with rows that prompts are judged on.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset
    choices: tuple[str, ...]
    metric: str = "accuracy"
    origin: str = ""
    leaked: int = 0

    def __post_init__(self) -> None:
        if len(self.choices) < 2:
            raise ValueError(f"task {self.name!r}: got choices {self.choices}, want at least two answers")
        if self.metric not in METRICS:
            raise ValueError(f"task {self.name!r}: got metric {self.metric!r}, want one of {', '.join(METRICS)}")

    def few_shot(self, rows: int, seed: int) -> Task:
        """This task with `rows` training rows in total, drawn at random (not stratified); all when it has fewer."""
        if rows < 1:
            raise ValueError(f"rows: got {rows}, want at least 1")
        order = np.random.default_rng(seed).permutation(len(self.train))[:rows]
        return replace(self, train=self.train.select(order.tolist()))

    def limit(self, train_rows: int | None = None, test_rows: int | None = None) -> Task:
        """This task with at most the first train_rows and test_rows rows; None keeps all."""
        return replace(self, train=_first(self.train, train_rows), test=_first(self.test, test_rows))

    def on_validation(self) -> Task:
        """This task judged on its validation rows: they take the place of the test rows, which are gone."""
        return replace(self, validation=self.validation.select([]), test=self.validation)

    def select_training(self, train_rows: Sequence[int], validation_rows: Sequence[int]) -> Task:
        """This task with these training and validation rows only; the others count as leaked."""
        train, validation = self.train.select(train_rows), self.validation.select(validation_rows)
        gone = len(self.train) + len(self.validation) - len(train) - len(validation)
        return replace(self, train=train, validation=validation, leaked=self.leaked + gone)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content: texts, labels, answers and metric; not of the name."""
        state = hashlib.sha256(json.dumps([self.choices, self.metric]).encode())
        for split in (self.train, self.validation, self.test):
            state.update(json.dumps([list(split["text"]), list(split["label"])]).encode())
        return state.hexdigest()[:32]


def to_dataset(examples: Iterable[Example]) -> Dataset:
    """Columns text, label, raw."""
    rows = list(examples)
    # Types are named so that an empty split has them too.
    features = Features({"text": Value("string"), "label": Value("int64"), "raw": Value("string")})
    columns = {
        "text": [row.text for row in rows],
        "label": [row.label for row in rows],
        "raw": [row.raw for row in rows],
    }
    return Dataset.from_dict(columns, features=features)


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """The examples in a random order that depends on the seed alone."""
    return [examples[index] for index in np.random.default_rng(seed).permutation(len(examples))]


def split_examples(
    examples: Sequence[Example], seed: int, shares: tuple[float, float] = SPLIT
) -> tuple[list[Example], list[Example], list[Example]]:
    """Shuffle and cut into training, validation and test examples; shares: of the first two."""
    rows = shuffled(examples, seed)
    first = round(shares[0] * len(rows))
    second = first + round(shares[1] * len(rows))
    return rows[:first], rows[first:second], rows[second:]


def _first(split: Dataset, rows: int | None) -> Dataset:
    return split if rows is None or rows >= len(split) else split.select(range(rows))
