"""From rows of a public set to examples, which are stored by the content of the set, its split and the code here.

Rows that do not fit stay among them, with what is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets

from prompttransfer.tasks.papers.sources import HubSplit
from prompttransfer.tasks.papers.spec import BadRow, PaperTask, References, Row
from prompttransfer.tasks.papers.splits import part_rows
from prompttransfer.tasks.rendered import row_file, stored
from prompttransfer.tasks.task import FEATURES, Example

_RENDERED = Features({**FEATURES, "problem": Value("string")})
_BATCH = 1000


class NoAnswer(BadRow):
    """A row whose text is right, but nothing answers it; `example` is the rest of it."""

    def __init__(self, field: str, example: Example) -> None:
        super().__init__(field, "got no answer")
        self.example = example


def example_of(spec: PaperTask, row: Row) -> Example:
    """The example of a row, or BadRow; where the answer is free text, it is the first of its references."""
    fields = spec.inputs.read(row)
    for name, value in fields.items():
        if not value and name not in spec.may_be_empty:
            raise BadRow(name, "got an empty text")
    raw, text = " ".join(fields.values()), spec.text(fields)
    if not isinstance(spec.target, References):
        return Example(raw, text, spec.target.read(row))
    references = tuple(dict.fromkeys(filter(None, spec.target.read(row))))
    if not references:
        raise NoAnswer(spec.target.columns[0], Example(raw, text))
    return Example(raw, text, answer=references[0], references=references)


def rendered(spec: PaperTask, part: str, splits: Sequence[HubSplit], seed: int) -> Dataset:
    """Training, validation or test rows of a set: those that `part_rows` takes of some splits of the hub.

    Returns:
        A column for each field of `Example`, and "problem": empty, or what is wrong with the row.
    """
    content = [_code(), spec.name, part, seed, [split.fingerprint for split in splits]]

    def write(folder: Path) -> dict[str, Any]:
        with row_file(folder / "rows.arrow", _RENDERED) as write_row:
            for example, problem in _records(spec, part, splits, seed):
                write_row(example, problem=problem)
        return {}

    return stored(hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32], write)[0]["rows"]


def _records(spec: PaperTask, part: str, splits: Sequence[HubSplit], seed: int) -> Iterable[tuple[Example, str]]:
    records = _rows(spec, part, splits, seed)
    if not isinstance(spec.target, References):
        return records
    if part != "train" and spec.target.merged:
        return _merged(records)
    return _every_answer(records) if spec.target.every else records


def _rows(spec: PaperTask, part: str, splits: Sequence[HubSplit], seed: int) -> Iterator[tuple[Example, str]]:
    """An example for each row, or an empty one and what is wrong."""
    tables = [split.open().select_columns(list(spec.columns)) for split in splits]
    starts = [0, *accumulate(map(len, tables))]
    table = concatenate_datasets(tables)
    places = np.arange(len(table))
    if spec.where is not None:  # the set shares the table with others
        column, value = spec.where
        places = np.flatnonzero(pc.equal(table.data.column(column), value).to_numpy())
        if not len(places):
            raise ValueError(f"{spec.name}: no row of {splits[0].name!r} has {column} {value!r}")
    places = places[part_rows(spec.splits, part, len(places), seed)]
    if part == "train":
        places = places[: spec.max_train]
    for place, row in zip(places, _each_row(table.select(places)), strict=True):
        try:
            yield example_of(spec, row), ""
        except BadRow as error:
            example = error.example if isinstance(error, NoAnswer) else Example("", "")
            split = int(np.searchsorted(starts, place, side="right")) - 1
            yield example, f"split {splits[split].name!r}, row {place - starts[split] + 1}, {error}"


def _each_row(table: Dataset) -> Iterator[dict[str, Any]]:
    """Rows, read many at a time."""
    for batch in table.iter(batch_size=_BATCH):
        yield from (dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True))


def _every_answer(records: Iterable[tuple[Example, str]]) -> Iterator[tuple[Example, str]]:
    """A row for each right answer."""
    for example, problem in records:
        for answer in example.references or ("",):
            yield replace(example, answer=answer), problem


def _merged(records: Iterable[tuple[Example, str]]) -> list[tuple[Example, str]]:
    """One row for each text, with the references of all its rows. Held in memory: scored rows are few.

    A row without an answer is no problem where another row has one: WebNLG's test files repeat their texts so.
    """
    merged: dict[str, Example] = {}
    bad = []
    for example, problem in records:
        if problem:
            bad.append((example, problem))
        else:
            before = merged.get(example.text, example)
            references = tuple(dict.fromkeys([*before.references, *example.references]))
            merged[example.text] = replace(before, references=references)
    return [(example, "") for example in merged.values()] + [pair for pair in bad if pair[0].text not in merged]


@cache
def _code() -> str:
    """Hash of what examples are made by."""
    files = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".yaml"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
