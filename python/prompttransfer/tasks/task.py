"""A task: three splits of templated texts with the index of the right answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from datasets import Dataset, Features, Value

from prompttransfer.settings.joins import Join
from prompttransfer.settings.reading import Reading
from prompttransfer.tasks.metrics import METRICS
from prompttransfer.tasks.text_metrics import TEXT_METRICS

# Types are named so that an empty split has them too.
FEATURES = Features(
    {
        "raw": Value("string"),
        "text": Value("string"),
        "label": Value("int64"),
        "answer": Value("string"),
        "references": [Value("string")],
    }
)

# share of training and validation rows when a task comes as one table; the rest is its test set
SPLIT = (0.8, 0.1)


@dataclass(frozen=True)
class Example:
    """One row. raw: all its text, joined, untemplated (searched for leaks); text: what the model reads.

    label: index of the right choice. Where the answer is free text: -1, `answer` is what the model learns to write,
    and `references` are all answers that count as right.
    """

    raw: str
    text: str
    label: int = -1
    answer: str = ""
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wording:
    """How the text of a row is made of its fields, see `prompttransfer.tasks.templates`.

    columns: of each field in the table the rows came from, where they are known.
    reading: how that table is read.
    """

    template: str
    max_words: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True)
class Task:
    """A task in words: a choice between given answers, or a free answer.

    Attributes:
        name: also the name of its files in a run folder.
        train: a column for each field of `Example`; shuffled, so that the first n rows are a random draw.
        validation: likewise.
        test: likewise.
        choices: the answer strings the model chooses from, by label; empty where the answer is free text.
        scale: the choices are numbers, and correlations are of these numbers; an answer that is written may be any.
        metric: the score that is reported; known to `prompttransfer.tasks.metrics`, or `text_metrics` for free text.
        more_metrics: reported beside it.
        max_length: text tokens kept of a row; None: as the run says.
        cut: the end of a text that gives way where it is longer: "start", or "end" for texts that begin with what is
            asked.
        cue: what a causal model reads between text and answer, where the texts do not end with it; never cut.
        join: how the answer of a causal model joins its text (`settings.joins`); "auto": as the template, or the cue,
            ends; None: the text as it is written, without white space behind a cue, and then a space, as in prompt
            files that do not say.
        max_answer: tokens of an answer at most, when it is free text.
        wording: how texts are made, for texts to come; None where it is not known.
        origin: where the rows came from.
        leaked: training and validation rows left out because they overlap with rows that prompts are judged on.
        skipped: rows left out because they do not fit the description of the task.
    """

    name: str
    train: Dataset
    validation: Dataset
    test: Dataset
    choices: tuple[str, ...] = ()
    scale: bool = False
    metric: str = "accuracy"
    more_metrics: tuple[str, ...] = ()
    max_length: int | None = None
    cut: str = "start"
    cue: str = ""
    join: Join | Literal["auto"] | None = "auto"
    max_answer: int = 128
    wording: Wording | None = None
    origin: str = ""
    leaked: int = 0
    skipped: int = 0

    def __post_init__(self) -> None:
        if len(self.choices) == 1:
            raise ValueError(f"task {self.name!r}: got choices {self.choices}, want at least two answers")
        known = METRICS if self.choices else TEXT_METRICS
        for metric in self.metrics:
            if metric not in known:
                kind = "a choice" if self.choices else "free text"
                raise ValueError(
                    f"task {self.name!r}: got metric {metric!r}, want one of {', '.join(known)} for {kind}"
                )

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics, the reported one first."""
        return (self.metric, *self.more_metrics)

    @property
    def free_text(self) -> bool:
        return not self.choices

    def few_shot(self, rows: int, seed: int) -> Task:
        """This task with `rows` training rows (at least 1), drawn at random, not stratified; all when it has fewer."""
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


def to_dataset(examples: Iterable[Example]) -> Dataset:
    """A column for each field of `Example`."""
    rows = list(examples)
    columns = {name: [getattr(row, name) for row in rows] for name in FEATURES}
    return Dataset.from_dict(columns, features=FEATURES)


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
