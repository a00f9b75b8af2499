"""What stands in a cell of a table: text for a template, a label, an answer.

Tables of different formats write the same thing differently: 1, 1.0, "1" and the second name of a ClassLabel may all be
one label. Here they become the same text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


class Misfit(ValueError):
    """A row, or a cell of it, that does not fit the description of the task."""


class ClassName(str):
    """The name of a class, stored in the file as `number`."""

    number: int

    def __new__(cls, name: str, number: int) -> ClassName:
        made = super().__new__(cls, name)
        made.number = number
        return made


def pick(row: Any, column: str) -> Any:
    """The cell of a column; "a.b" is also the field b of the struct a, of each one where a is a list of them.

    Raises:
        Misfit: there is no such column.
    """
    if isinstance(row, Mapping):
        if column in row:
            return row[column]
        for dot in (match.start() for match in re.finditer(r"\.", column)):
            if column[:dot] in row:
                return pick(row[column[:dot]], column[dot + 1 :])
        raise Misfit(f"there is no column {column!r}, only {', '.join(repr(str(name)) for name in row) or 'none'}")
    if isinstance(row, (list, tuple)):
        return [pick(item, column) for item in row]
    if row is None:
        return None
    raise Misfit(f"there is no field {column!r} in a {_kind(row)}")


def is_missing(value: Any) -> bool:
    """Nothing stands there: null, not a number, or white space only."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or (isinstance(value, str) and not value.strip())


def text_of(value: Any) -> str:
    """A cell as text: numbers and dates as they are written, the items of a list with commas between them.

    Raises:
        Misfit: nothing stands there, or something that is not text: a struct, bytes.
    """
    if is_missing(value) or (isinstance(value, (list, tuple)) and not value):
        raise Misfit("got nothing, want a value")
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        known = ", ".join(map(str, value))
        raise Misfit(f"got a struct of {known}; want text: name one of its fields with a dot, such as column.field")
    if isinstance(value, (bytes, bytearray)):
        raise Misfit(f"got {len(value)} bytes, want text")
    text = str(value)
    if not text.isascii() and _SURROGATE.search(text):  # JSON's "\\ud800" alone: no file can hold it
        raise Misfit("got half of a surrogate pair, want text")
    return text


def label_of(value: Any) -> str:
    """A label as text, equal for equal labels of different formats: 1.0 and "1", true and "true".

    Raises:
        Misfit: nothing stands there, or a list or a struct.
    """
    if isinstance(value, (list, tuple, Mapping)):
        raise Misfit(f"got a {_kind(value)}, want one label")
    text = text_of(value).strip()
    return text.split(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


def answers_of(value: Any) -> tuple[str, ...]:
    """All right answers of a cell: one, or a list of them.

    Raises:
        Misfit: there is none.
    """
    values = value if isinstance(value, (list, tuple)) else [value]
    answers = dict.fromkeys(text_of(item).strip() for item in values if not is_missing(item))
    if not answers:
        raise Misfit("got nothing, want an answer or a list of them")
    return tuple(answers)


def _kind(value: Any) -> str:
    return "struct" if isinstance(value, Mapping) else type(value).__name__
