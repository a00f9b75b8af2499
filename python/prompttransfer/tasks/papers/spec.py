"""How a data set of the papers is described: where it is, how a row becomes text and answer, its splits and scores.

What reads a row is a function of its columns, with the names of the columns beside it, so that the others are never
loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prompttransfer.files.excerpt import shown

Row = Mapping[str, Any]


class BadRow(ValueError):
    """A field of a row that does not fit the description of its set."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field!r}: {problem}")


@dataclass(frozen=True)
class Inputs:
    """The fields a model reads, in order. names: as the text calls them; read: row -> name -> value."""

    names: tuple[str, ...]
    columns: tuple[str, ...]
    read: Callable[[Row], dict[str, str]]


@dataclass(frozen=True)
class Label:
    """The right choice of a row. read: row -> its index."""

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
    """Where training, validation and test rows come from; see `prompttransfer.tasks.papers.splits`.

    Attributes:
        rule: halves, thousand or own.
        train, test: splits of the hub.
        validation: the same, for the rule own; the other rules make the validation rows.
    """

    rule: Literal["halves", "thousand", "own"]
    train: tuple[str, ...] = ("train",)
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ("validation",)


@dataclass(frozen=True)
class PaperTask:
    """A data set of the papers.

    Attributes:
        name: in the registry, "glue/mnli".
        content: a few words for lists.
        hub, config: what `datasets.load_dataset` is called with; config None: the only one.
        prefix: the name of the set that starts every text, as the published code writes it.
        inputs: the fields of the text.
        target: the answer.
        words: verbalisers in words, by label; empty where the answer is free text.
        scale: the words are numbers, so they are the digits too, and what is written is read as a number.
        splits: how the rows are split.
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
    config: str | None
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

    @property
    def template(self) -> str:
        """The text format, with an ellipsis for every value."""
        return " ".join([self.prefix, *(f"{name}: …" for name in self.inputs.names)])


def text_of(row: Row, column: str) -> str:
    """A column that holds a text, stripped; it may be empty.

    Raises:
        BadRow: there is no text.
    """
    value = row[column]
    if not isinstance(value, str):
        raise BadRow(column, f"got {'nothing' if value is None else shown(value)}, want a text")
    return value.strip()


def strings_of(row: Row, column: str) -> list[str]:
    """A column that holds a list of texts, stripped, without empty ones.

    Raises:
        BadRow: there is no list of texts.
    """
    value = row[column]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise BadRow(column, f"got {'nothing' if value is None else shown(value)}, want a list of texts")
    return [item.strip() for item in value if item.strip()]


def nested(row: Row, column: str, key: str) -> list[Any]:
    """A list in a column, whether it is stored as a structure of lists or as a list of structures.

    Raises:
        BadRow: neither.
    """
    value = row[column]
    try:
        return list(value[key]) if isinstance(value, Mapping) else [item[key] for item in value]
    except (KeyError, TypeError):
        got = "nothing" if value is None else shown(value)
        raise BadRow(f"{column}.{key}", f"got {got}, want a list") from None


def named(clean: Callable[[str], str] = str.strip, **columns: str) -> Inputs:
    """Inputs by name and column, each cleaned."""

    def read(row: Row) -> dict[str, str]:
        return {name: clean(text_of(row, column)) for name, column in columns.items()}

    return Inputs(tuple(columns), tuple(columns.values()), read)


def class_label(classes: int, column: str = "label") -> Label:
    """An index of 0..classes-1."""

    def read(row: Row) -> int:
        value = row[column]
        wanted = f"want one of {', '.join(map(str, range(classes)))}"
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if value == -1:
            raise BadRow(column, f"got -1, which marks the rows of a hidden test set; {wanted}")
        if value is None or isinstance(value, str) or value not in range(classes):
            raise BadRow(column, f"got {'nothing' if value is None else shown(value)}, {wanted}")
        return int(value)

    return Label((column,), read)


def mapped(column: str, labels: Mapping[str, int]) -> Label:
    """A label that the set writes as a text."""

    def read(row: Row) -> int:
        value = row[column]
        if value in (None, "") or str(value) not in labels:
            got = "nothing" if value in (None, "") else shown(value)
            raise BadRow(column, f"got {got}, want one of {', '.join(map(shown, labels))}")
        return labels[str(value)]

    return Label((column,), read)
