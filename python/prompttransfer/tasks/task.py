"""A task: three splits of templated texts, each with the index of its right answer."""

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

# Explicit types, so that an empty split has them too.
FEATURES = Features(
    {
        "raw": Value("string"),
        "text": Value("string"),
        "label": Value("int64"),
        "answer": Value("string"),
        "references": [Value("string")],
    }
)

# fractions of training and validation rows of a single table; the rest is the test set
SPLIT = (0.8, 0.1)


@dataclass(frozen=True)
class Example:
    """One row of a task.

    raw: all its text, joined, without the template; searched for leaks.
    text: the text that the model reads.
    label: index of the right choice; -1 for free text.
    answer: for free text, the answer that the model learns to write.
    references: for free text, all answers that count as right.
    """

    raw: str
    text: str
    label: int = -1
    answer: str = ""
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wording:
    """How to build the text of a row from its fields, see `prompttransfer.tasks.templates`.

    columns: column of each field in the original table, if known.
    reading: options for reading that table.
    """

    template: str
    max_words: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    reading: Reading = field(default_factory=Reading)


@dataclass(frozen=True)
class Task:
    """A task in words: a choice between fixed answers, or free text.

    Attributes:
        name: name of the task and of its files in a run folder.
        train: training rows, with a column for each field of `Example`. Shuffled, so the first n rows are a random
            sample.
        validation: validation rows, likewise.
        test: test rows, likewise.
        choices: answers to choose from, by label; empty for free text.
        scale: whether the choices are numbers. Correlations then use these numbers, and a generated answer may be any
            number.
        metric: metric to report, from `prompttransfer.tasks.metrics`, or from `text_metrics` for free text.
        more_metrics: other metrics to report.
        max_length: text tokens to keep per row; None: as in the run.
        cut: end of a long text to cut off: "start", or "end" for texts that begin with the question.
        cue: text that a causal model reads between text and answer, if the texts do not end with it; never cut.
        join: how the answer of a causal model joins its text (`settings.joins`). "auto": according to the end of the
            template or cue. None: the text unchanged, without white space after a cue, then a space, as for prompt
            files without this entry.
        max_answer: largest number of tokens of a free-text answer.
        wording: how to build texts for new rows; None: unknown.
        origin: source of the rows.
        leaked: number of training and validation rows left out because they overlap with rows on which prompts are
            scored.
        skipped: number of rows left out because they do not fit the description of the task.
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
        """All metrics, starting with the one to report."""
        return (self.metric, *self.more_metrics)

    @property
    def free_text(self) -> bool:
        return not self.choices

    def few_shot(self, rows: int, seed: int) -> Task:
        """This task with `rows` random training rows (at least 1), not stratified; all of them if it has fewer."""
        if rows < 1:
            raise ValueError(f"rows: got {rows}, want at least 1")
        order = np.random.default_rng(seed).permutation(len(self.train))[:rows]
        return replace(self, train=self.train.select(order.tolist()))

    def limit(self, train_rows: int | None = None, test_rows: int | None = None) -> Task:
        """This task with at most the first train_rows and test_rows rows; None keeps all."""
        return replace(self, train=_first(self.train, train_rows), test=_first(self.test, test_rows))

    def on_validation(self) -> Task:
        """This task with its validation rows in place of the test rows."""
        return replace(self, validation=self.validation.select([]), test=self.validation)

    def select_training(self, train_rows: Sequence[int], validation_rows: Sequence[int]) -> Task:
        """This task with only these training and validation rows. The others count as leaked."""
        train, validation = self.train.select(train_rows), self.validation.select(validation_rows)
        gone = len(self.train) + len(self.validation) - len(train) - len(validation)
        return replace(self, train=train, validation=validation, leaked=self.leaked + gone)


def to_dataset(examples: Iterable[Example]) -> Dataset:
    """Dataset with a column for each field of `Example`."""
    rows = list(examples)
    columns = {name: [getattr(row, name) for row in rows] for name in FEATURES}
    return Dataset.from_dict(columns, features=FEATURES)


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """The examples in a random order that depends only on the seed."""
    return [examples[index] for index in np.random.default_rng(seed).permutation(len(examples))]


def split_examples(
    examples: Sequence[Example], seed: int, shares: tuple[float, float] = SPLIT
) -> tuple[list[Example], list[Example], list[Example]]:
    """Shuffle and split into training, validation and test examples. shares: fractions of the first two."""
    rows = shuffled(examples, seed)
    first = round(shares[0] * len(rows))
    second = first + round(shares[1] * len(rows))
    return rows[:first], rows[first:second], rows[second:]


def _first(split: Dataset, rows: int | None) -> Dataset:
    return split if rows is None or rows >= len(split) else split.select(range(rows))
