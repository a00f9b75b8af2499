"""Rows of JSON files: an object on every line, an array of objects, or an object of columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prompttransfer.files.excerpt import listed, shown
from prompttransfer.files.json_file import parse_json
from prompttransfer.tasks.tables import Row, check_columns, opened

_BETWEEN = re.compile(r"[\s,]*")


def json_lines(path: Path, encoding: str) -> Iterator[Row]:
    with opened(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _object(f"{path}, row {number}", parse_json(line))
                except ValueError as error:
                    yield Row(f"{path}, row {number}", problem=str(error))


def json_objects(path: Path, columns: Sequence[str], encoding: str) -> Iterator[Row]:
    """The objects of an array, or one object after the other. The file is read as a whole: large ones want JSON lines.

    A file of one object may hold whole columns, or the array, see `_inside`.
    """
    with opened(path, encoding) as file:
        text = file.read()
    items, decoder, at = [], json.JSONDecoder(), _BETWEEN.match(text).end()
    while at < len(text):
        try:
            item, at = decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError(f"{path}: not JSON of ours: nested too deep") from None
        except ValueError as error:  # also a number of thousands of digits
            raise ValueError(f"{path}: not JSON: {error}") from error
        items.append(item)
        at = _BETWEEN.match(text, at).end()
    if len(items) == 1 and not isinstance(items[0], list):
        yield from _inside(path, items[0], columns)
        return
    if len(items) == 1:
        (items,) = items
    for number, item in enumerate(items, start=1):
        yield _object(f"{path}, row {number}", item)


def _inside(path: Path, item: Any, columns: Sequence[str]) -> Iterator[Row]:
    """The rows that a file of one object stands for.

    Those of its columns, where the needed ones are lists or, as pandas writes them, objects with a value for every row;
    else those of its only list of objects; else those that pandas writes as "split", names of columns beside lists of
    cells, or as "index", an object for every row; else itself.

    Raises:
        ValueError: the columns are not of one length, or not those that are needed.
    """
    known = item if isinstance(item, dict) else {}
    names = [column if column in known else column.split(".")[0] for column in columns]
    needed = {name: known.get(name) for name in names}
    lists = [values for values in known.values() if isinstance(values, list) and isinstance((*values, None)[0], dict)]
    if needed and all(isinstance(values, list) for values in needed.values()):
        yield from _of_columns(path, needed)
    elif needed and names == list(columns) and all(isinstance(values, dict) for values in needed.values()):
        rows = next(iter(needed.values()))
        yield from _of_columns(
            path, {name: [values[row] for row in rows if row in values] for name, values in needed.items()}
        )
    elif len(lists) == 1 and all(values is None for values in needed.values()):
        for number, row in enumerate(lists[0], start=1):
            yield _object(f"{path}, row {number}", row)
    elif (split := _split_of(known)) and not any(name in known for name in names):
        check_columns(path, columns, split)
        for number, cells in enumerate(known["data"], start=1):
            place = f"{path}, row {number}"
            if len(cells) == len(split):
                yield Row(place, dict(zip(split, cells, strict=True)))
            else:
                yield Row(place, problem=f"got {len(cells)} cells, want one for each of {len(split)} columns")
    elif _is_index(known, names):
        for number, row in enumerate(known.values(), start=1):
            yield _object(f"{path}, row {number}", row)
    elif known and names and not any(name in known for name in names):
        wanted = f"want an array of objects with {listed(names)}, or an object of such columns"
        yield Row(f"{path}, row 1", problem=f"got an object of {listed(known)}, {wanted}")
    else:
        yield _object(f"{path}, row 1", item)


def _split_of(known: Mapping[str, Any]) -> list[str]:
    """The columns of an object as pandas writes it with orient="split"; none for another."""
    columns, data = known.get("columns"), known.get("data")
    fits = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    return columns if fits and isinstance(data, list) and all(isinstance(cells, list) for cells in data) else []


def _is_index(known: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether the values of an object are rows, as pandas writes it with orient="index": each an object with the needed
    columns, one of which holds more than lists, as columns would."""
    rows = list(known.values())
    if not rows or not names or not all(isinstance(row, dict) and row.keys() >= set(names) for row in rows):
        return False
    return any(all(not isinstance(row[name], (list, dict)) for row in rows) for name in names)


def _of_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> Iterator[Row]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{length} of {shown(name)}" for name, length in lengths.items())
        raise ValueError(f"{path}: got {got}, want as many values in every column")
    for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
        yield Row(f"{path}, row {number}", dict(zip(columns, values, strict=True)))


def _object(place: str, item: Any) -> Row:
    if isinstance(item, dict):
        return Row(place, item)
    hint = ", as pandas writes with orient='records'" if isinstance(item, list) else ""
    return Row(place, problem=f"got {type(item).__name__}, want an object with named columns{hint}")
