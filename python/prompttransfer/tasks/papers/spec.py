"""How a data set of the papers is described: where it is, how a row becomes text and answer, its splits and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]


class BadRow(ValueError):
    """A field of a row that does not fit the description of its set."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")


@dataclass(frozen=True)
class Inputs:
    """The fields a model reads, in order, under their names in the text. Only the columns are loaded."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    read: Callable[[Row], dict[str, str]]


@dataclass(frozen=True)
class Label:
    """The index of the right choice of a row."""

    columns: tuple[str, ...]
    read: Callable[[Row], int]


@dataclass(frozen=True)
class References:
    """The right answers of a row, where the answer is free text; training rows learn the first one.

    every: a row is a row for each of its answers; when scored, all of them are right for each. merged: rows with the
    same text are one row when scored, with the answers of all.
    """

    columns: tuple[str, ...]
    read: Callable[[Row], Sequence[str]]
    every: bool = False
    merged: bool = False


@dataclass(frozen=True)
class Splits:
    """The splits of the hub that rows come from; `prompttransfer.tasks.papers.splits` explains the rules.

    validation: for the rule own; the other rules take the validation rows from train or test.
    """

    rule: Literal["halves", "thousand", "own"]
    train: tuple[str, ...] = ("train",)
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ("validation",)


@dataclass(frozen=True, kw_only=True)
class PaperTask:
    """A data set of the papers.

    Attributes:
        name: in the registry, "glue/mnli".
        content: a few words for lists.
        hub, config: what `datasets.load_dataset` is called with; config None: the only one.
        prefix: the name of the set that starts every text, as the published code writes it.
        words: verbalisers in words, by label; empty where the answer is free text.
        scale: the words are numbers, so they are the digits too, and what is written is read as a number.
        metric, more_metrics: see `prompttransfer.tasks.task.Task`.
        max_length: tokens of a text.
        max_train: training rows at most.
        where: column and value of the rows that belong to the set; None: all.
        may_be_empty: inputs whose emptiness is no error, as the public set has such rows.
        converted: the hub holds a script that `datasets` no longer runs; its Parquet conversion is read.
        source_of, target_of: papers that use it so.
    """

    name: str
    content: str
    hub: str
    config: str | None = None
    prefix: str
    inputs: Inputs
    target: Label | References
    splits: Splits
    words: tuple[str, ...] = ()
    scale: bool = False
    metric: str = "accuracy"
    more_metrics: tuple[str, ...] = ()
    max_length: int = 256
    max_train: int | None = None
    where: tuple[str, str] | None = None
    may_be_empty: tuple[str, ...] = ()
    converted: bool = False
    source_of: tuple[str, ...] = ()
    target_of: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        names = (*self.inputs.columns, *self.target.columns, *(self.where or ())[:1])
        return tuple(dict.fromkeys(names))

    def choices(self, answers: str) -> tuple[str, ...]:
        """Verbalisers by label: digits, as in the papers, or words; none where the answer is free text."""
        if answers == "words" or self.scale:
            return self.words
        return tuple(map(str, range(len(self.words))))

    def text(self, values: Mapping[str, str]) -> str:
        """What a model reads of a row with these values, by name of the field."""
        return " ".join([self.prefix, *(f"{name}: {value}" for name, value in values.items())])
