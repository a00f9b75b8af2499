"""Rows of JSON files: one object per line, an array of objects, or an object of columns."""

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
    """The objects of an array, or consecutive objects. Reads the whole file into memory.

    A file with a single object may hold whole columns, or the array, see `_inside`.
    """
    with opened(path, encoding) as file:
        text = file.read()
    items: list[Any] = []
    decoder, at = json.JSONDecoder(), _BETWEEN.match(text).end()
    while at < len(text):
        try:
            item, at = decoder.raw_decode(text, at)
        except RecursionError:
            raise ValueError(f"{path}: the JSON is nested too deeply") from None
        except ValueError as error:  # also a number of thousands of digits
            raise ValueError(f"{path}: not JSON: {error}") from error
        items.append(item)
        at = _BETWEEN.match(text, at).end()
    if len(items) == 1:
        items = items[0] if isinstance(items[0], list) else _inside(path, items[0], columns)
    for number, item in enumerate(items, start=1):
        yield _object(f"{path}, row {number}", item)


def _inside(path: Path, item: Any, columns: Sequence[str]) -> list[Any]:
    """Rows of a file with a single object.

    In this order: its columns, if the needed ones are lists or, as pandas writes them, objects with a value for every
    row; its only list of objects; pandas' "split" layout (column names and lists of cells) or "index" layout (an object
    for every row); the object itself as the only row.

    Raises:
        ValueError: the columns differ in length, or needed columns are missing.
    """
    known = item if isinstance(item, dict) else {}
    names = [column if column in known else column.split(".")[0] for column in columns]
    needed = {name: known.get(name) for name in names}
    if needed and all(isinstance(values, list) for values in needed.values()):
        return _of_columns(path, needed)
    if needed and names == list(columns) and all(isinstance(values, dict) for values in needed.values()):
        rows = next(iter(needed.values()))
        aligned = {name: [values[row] for row in rows if row in values] for name, values in needed.items()}
        return _of_columns(path, aligned)
    lists = [values for values in known.values() if isinstance(values, list) and isinstance((*values, None)[0], dict)]
    if len(lists) == 1 and all(values is None for values in needed.values()):
        return lists[0]
    if not known or not names or any(name in known for name in names):
        return [item]
    if isinstance(known.get("columns"), list) and isinstance(known.get("data"), list):
        return _of_split(path, columns, known["columns"], known["data"])
    rows = list(known.values())
    are_rows = all(isinstance(row, dict) and row.keys() >= set(names) for row in rows)
    if are_rows and any(not isinstance(rows[0][name], (list, dict)) for name in names):  # lists would mean columns
        return rows
    wanted = f"want an array of objects with {listed(names)}, or an object of such columns"
    raise ValueError(f"{path}: got an object of {listed(known)}, {wanted}")


def _of_split(path: Path, columns: Sequence[str], names: list[Any], data: list[Any]) -> list[dict[str, Any]]:
    check_columns(path, columns, list(map(str, names)))
    for number, cells in enumerate(data, start=1):
        if not isinstance(cells, list) or len(cells) != len(names):
            got = f"{len(cells)} cells" if isinstance(cells, list) else type(cells).__name__
            raise ValueError(f"{path}, row {number}: got {got}, want one for each of {len(names)} columns")
    return [dict(zip(map(str, names), cells, strict=True)) for cells in data]


def _of_columns(path: Path, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    if len({len(values) for values in columns.values()}) > 1:
        got = ", ".join(f"{len(values)} of {shown(name)}" for name, values in columns.items())
        raise ValueError(f"{path}: got {got}, want as many values in every column")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _object(place: str, item: Any) -> Row:
    if isinstance(item, dict):
        return Row(place, item)
    hint = ", as pandas writes with orient='records'" if isinstance(item, list) else ""
    return Row(place, problem=f"got {type(item).__name__}, want an object with named columns{hint}")
