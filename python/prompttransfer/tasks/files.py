"""A task from a table of one's own: CSV, TSV or JSONL with a text and a label column.

One file is split 80/10/10 at random; "train.csv:test.csv" keeps the two apart and validates on a tenth of the first.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prompttransfer.tasks.names import SUFFIXES, file_paths
from prompttransfer.tasks.task import Example, Task, shuffled, split_examples, to_dataset
from prompttransfer.tasks.templates import fields_of, render

_MAX_CHOICES = 100

Record = tuple[str, dict[str, Any]]  # place ("reviews.csv, row 7") and its columns


def load_files(
    files: str,
    *,
    text_column: str = "text",
    label_column: str = "label",
    template: str | None = None,
    choices: Sequence[str] | None = None,
    metric: str = "accuracy",
    max_words: int | None = None,
    whole: bool = False,
    seed: int = 42,
) -> Task:
    """A task from one file, or from "training file:test file"; leaks are not removed yet.

    Args:
        text_column, label_column: columns to read.
        template: text for the model, naming columns in braces; the text column and "\\nLabel:" if not given.
        choices: answer strings; labels are these strings or their indices. If not given: the labels themselves, sorted.
        max_words: words kept of each column; None: all (the model keeps the last tokens of a long text).
        whole: all rows of a single file are test rows, for scoring; two files stay what they are.

    Raises:
        FileNotFoundError, ValueError: names the file, the row and the column.
    """
    paths = file_paths(files)
    if len(paths) > 2:
        raise ValueError(f"{files}: got {len(paths)} files, want one, or two as training:test")
    # A column may have any name, a field of a template may not.
    fields = {name: name for name in fields_of(template)} if template else {"text": text_column}
    template = template or "{text}\nLabel:"
    columns = (*fields.values(), label_column)
    tables = [list(_records(path, columns)) for path in paths]
    for path, table in zip(paths, tables, strict=True):
        if not table:
            raise ValueError(f"{path}: got no rows, want at least one")
    index = _label_index(tables, label_column, choices)

    def example(record: Record) -> Example:
        place, row = record
        label = _label(row[label_column])
        if label not in index:
            known = ", ".join(repr(name) for name in index)
            raise ValueError(f"{place}, column {label_column!r}: got label {label!r}, want one of {known}")
        values = {field: str(row[column]) for field, column in fields.items()}
        return render(template, values, index[label], max_words=max_words)

    parts = [[example(record) for record in table] for table in tables]
    if len(parts) == 1 and whole:
        train, validation, test = [], [], shuffled(parts[0], seed)
    elif len(parts) == 1:
        train, validation, test = split_examples(parts[0], seed)
        if not train or not test:
            raise ValueError(f"{paths[0]}: got {len(parts[0])} rows, want at least 10 to split them 80/10/10")
    else:
        train, validation, rest = split_examples(parts[0], seed, (0.9, 0.1))
        train, test = train + rest, shuffled(parts[1], seed)
    return Task(
        name=_task_name(paths[0]),
        train=to_dataset(train),
        validation=to_dataset(validation),
        test=to_dataset(test),
        choices=tuple(choices or index),
        metric=metric,
        origin=", ".join(path.name for path in paths),
    )


def _records(path: Path, columns: Sequence[str]) -> Iterator[Record]:
    """Rows with their places; every asked column is there and not empty."""
    if not path.is_file():
        raise FileNotFoundError(f"task file {path} does not exist")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: got a {path.suffix or 'nameless'} file, want one of {', '.join(SUFFIXES)}")
    read = _json_lines if path.suffix.lower() == ".jsonl" else _separated
    try:
        for place, row in read(path):
            for column in columns:
                if column not in row:
                    known = ", ".join(repr(name) for name in row)
                    raise ValueError(
                        f"{place}: there is no column {column!r}, only {known}; "
                        "name the right one with --text-column or --label-column"
                    )
                if row[column] is None or not str(row[column]).strip():
                    raise ValueError(f"{place}, column {column!r}: got nothing, want a value")
            yield place, row
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a UTF-8 text file ({error.reason} at byte {error.start})") from error


def _separated(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            for number, row in enumerate(reader, start=1):
                if None in row:
                    raise ValueError(
                        f"{path}, row {number}: got more fields than the {len(reader.fieldnames or [])} columns"
                    )
                yield f"{path}, row {number}", row
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: {error}") from error


def _json_lines(path: Path) -> Iterator[Record]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, row {number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, row {number}: got {type(row).__name__}, want an object with named columns")
            yield f"{path}, row {number}", row


def _label(value: Any) -> str:
    """A label as text; true and false as JSON writes them."""
    return str(value).lower() if isinstance(value, bool) else str(value).strip()


def _label_index(tables: Sequence[Sequence[Record]], column: str, choices: Sequence[str] | None) -> dict[str, int]:
    """Label as written in the files -> class."""
    labels = {_label(row[column]) for _, row in tables[0]}
    if choices is None:
        # Whole numbers are sorted by value, or "10" would stand before "2".
        numeric = all(re.fullmatch(r"-?\d+", label) for label in labels)
        ordered = sorted(labels, key=int) if numeric else sorted(labels)
        if not 2 <= len(ordered) <= _MAX_CHOICES:
            place = tables[0][0][0].rsplit(",", 1)[0]
            raise ValueError(f"{place}, column {column!r}: got {len(ordered)} labels, want 2 to {_MAX_CHOICES} classes")
        return {label: index for index, label in enumerate(ordered)}
    if labels <= set(choices):
        return {choice: index for index, choice in enumerate(choices)}
    return {str(index): index for index in range(len(choices))}


def _task_name(path: Path) -> str:
    stem = path.resolve().parent.name if path.stem.lower() == "train" else path.stem
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.") or "task"
