"""From rows of a public set to examples, written once: an Arrow file in the cache, read by memory map.

A file is named by the content of the set, the split rule and the code of this package, so that whatever would change
the examples makes a new one. Rows that do not fit stay in it, with what is wrong with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, Features, Value, concatenate_datasets
from datasets.arrow_writer import ArrowWriter

from prompttransfer.files.cache import built_once, cache_folder
from prompttransfer.tasks.papers.sources import HubSplit
from prompttransfer.tasks.papers.spec import BadRow, PaperTask, References, Row
from prompttransfer.tasks.papers.splits import part_rows
from prompttransfer.tasks.task import FEATURES, Example

_RENDERED = Features({**FEATURES, "problem": Value("string")})
_BATCH = 1000


class NoAnswer(BadRow):
    """A row whose text is right, but nothing answers it; `example` is the rest of it."""

    def __init__(self, field: str, example: Example) -> None:
        super().__init__(field, "got no answer")
        self.example = example


def example_of(spec: PaperTask, row: Row) -> Example:
    """The example of a row; where the answer is free text, it is the first of its references.

    Raises:
        BadRow: a field is missing or empty, or the label is not one of the set.
    """
    fields = spec.inputs.read(row)
    for name, value in fields.items():
        if not value and name not in spec.may_be_empty:
            raise BadRow(name, "got an empty text")
    text = " ".join([spec.prefix, *(f"{name}: {value}" for name, value in fields.items())])
    raw = " ".join(fields.values())
    if not isinstance(spec.target, References):
        return Example(raw, text, spec.target.read(row))
    references = tuple(dict.fromkeys(filter(None, spec.target.read(row))))
    if not references:
        raise NoAnswer(spec.target.columns[0], Example(raw, text))
    return Example(raw, text, answer=references[0], references=references)


@dataclass(frozen=True)
class Part:
    """Training, validation or test rows of a set: what `part_rows` takes of some splits of the hub."""

    spec: PaperTask
    name: str
    splits: Sequence[HubSplit]
    seed: int

    @property
    def key(self) -> str:
        """Names the content, in 40 hex digits."""
        content = [split.fingerprint for split in self.splits]
        state = json.dumps([_code(), self.spec.name, asdict(self.spec.splits), self.name, self.seed, content])
        return hashlib.sha256(state.encode()).hexdigest()[:40]

    def rendered(self) -> Dataset:
        """A column for each field of `Example`, and "problem": empty, or what is wrong with the row."""
        folder = cache_folder() / "tasks" / self.key
        with built_once(folder, sealed=True) as made:
            if made is not None:
                self._write(made / "rows.arrow")
        return Dataset.from_file(str(folder / "rows.arrow"))

    def _write(self, file: Path) -> None:
        with ArrowWriter(path=str(file), features=_RENDERED, writer_batch_size=_BATCH) as writer:
            for example, problem in self._records():
                writer.write(asdict(example) | {"problem": problem})
            writer.finalize()

    def _records(self) -> Iterable[tuple[Example, str]]:
        records = self._rows()
        if not isinstance(self.spec.target, References):
            return records
        if self.name != "train" and self.spec.target.merged:
            return _merged(records)
        return _every_answer(records) if self.spec.target.every else records

    def _rows(self) -> Iterator[tuple[Example, str]]:
        """An example for each row, or an empty one and what is wrong."""
        tables = [split.open().select_columns(list(self.spec.columns)) for split in self.splits]
        starts = [0, *accumulate(map(len, tables))]
        table = concatenate_datasets(tables)
        places = self._of_the_set(table)
        places = places[part_rows(self.spec.splits, self.name, len(places), self.seed)]
        if self.name == "train":
            places = places[: self.spec.max_train]
        for place, row in zip(places, _each_row(table.select(places)), strict=True):
            try:
                yield example_of(self.spec, row), ""
            except BadRow as error:
                example = error.example if isinstance(error, NoAnswer) else Example("", "")
                split = int(np.searchsorted(starts, place, side="right")) - 1
                yield example, f"split {self.splits[split].name!r}, row {place - starts[split] + 1}, {error}"

    def _of_the_set(self, table: Dataset) -> np.ndarray:
        """Rows of a shared table that belong to the set."""
        if self.spec.where is None:
            return np.arange(len(table))
        column, value = self.spec.where
        rows = np.flatnonzero(pc.equal(table.data.column(column), value).to_numpy())
        if not len(rows):
            raise ValueError(f"{self.spec.name}: no row of {self.splits[0].name!r} has {column} {value!r}")
        return rows


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
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
