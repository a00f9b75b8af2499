"""Convert a cell of a table to text for a template, a label or an answer.

Table formats write the same label differently: 1, 1.0, "1" and the second name of a ClassLabel may all be one label.
This module maps them to the same text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any

from prompttransfer.files.excerpt import cut, listed, shown

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_CODE = re.compile(r"[+-]?0[0-9]")
_EXACT = Context(prec=200)
_LONGEST_NUMBER = 40
_INVISIBLE = dict.fromkeys(map(ord, "\u200b\ufeff"))  # zero-width space, byte order mark
_SURROGATE = re.compile("[\ud800-\udfff]")


class Misfit(ValueError):
    """A row, or one of its cells, that does not fit the description of the task."""


class ClassName(str):
    """The name of a class that the file stores as `number`."""

    number: int

    def __new__(cls, name: str, number: int) -> ClassName:
        instance = super().__new__(cls, name)
        instance.number = number
        return instance


def pick(row: Any, column: str) -> Any:
    """The cell of a column. "a.b" is also field b of the struct a, or of each struct in the list a."""
    if isinstance(row, Mapping):
        if column in row:
            return row[column]
        for dot in (match.start() for match in re.finditer(r"\.", column)):
            if column[:dot] in row:
                return pick(row[column[:dot]], column[dot + 1 :])
        raise Misfit(f"there is no column {shown(column)}, only {listed(map(str, row)) or 'none'}")
    if isinstance(row, (list, tuple)):
        return [pick(item, column) for item in row]
    if row is None:
        return None
    raise Misfit(f"there is no field {shown(column)} in a {_kind(row)}")


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: null, NaN or only white space."""
    if isinstance(value, float):
        return math.isnan(value)
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or (isinstance(value, str) and not value.strip())


def text_of(value: Any) -> str:
    """A cell as text: numbers and dates as written, the items of a list joined by commas."""
    if is_missing(value) or (isinstance(value, (list, tuple)) and not value):
        raise Misfit("got nothing, want a value")
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        raise Misfit(
            f"got a struct of {listed(map(str, value), cut)}; want text: name a field with a dot, such as column.field"
        )
    if isinstance(value, (bytes, bytearray)):
        raise Misfit(f"got {len(value)} bytes, want text")
    text = str(value)
    if not text.isascii() and _SURROGATE.search(text):  # a lone "\\ud800" in JSON: it cannot be written to a file
        raise Misfit("got half of a surrogate pair, want text")
    return text


def label_of(value: Any) -> str:
    """A label as text, the same for all formats and spellings of a label.

    - Numbers are compared by value: 1, 1.0, "1.00", "+1" and "1e0" are "1", "-0.0" is "0", ".50" is "0.5". Numbers with
      leading zeros are codes: "01" stays "01".
    - True and "TRUE" are "true".
    - Outer white space and zero-width characters are removed, inner white space becomes one space, and accents are
      composed (NFC).

    Raises:
        Misfit: the cell is empty, or a list or a struct.
    """
    if isinstance(value, (list, tuple, Mapping)):
        raise Misfit(f"got a {_kind(value)}, want one label")
    label = _label(text_of(value))
    if not label:
        raise Misfit("got nothing, want a value")
    return label


@lru_cache(1000)
def _label(text: str) -> str:
    text = " ".join(unicodedata.normalize("NFC", text).translate(_INVISIBLE).split())
    if text.casefold() in ("true", "false"):
        return text.casefold()
    if len(text) > _LONGEST_NUMBER or not _NUMBER.fullmatch(text) or _CODE.match(text):
        return text
    number = Decimal(text)
    return f"{number.normalize(_EXACT):f}" if number else "0"


def answers_of(value: Any) -> tuple[str, ...]:
    """Right answers of a cell, which holds one or a list of them. Raises Misfit if there is none."""
    values = value if isinstance(value, (list, tuple)) else [value]
    answers = dict.fromkeys(text_of(item).strip() for item in values if not is_missing(item))
    if not answers:
        raise Misfit("got nothing, want an answer or a list of them")
    return tuple(answers)


def _kind(value: Any) -> str:
    return "struct" if isinstance(value, Mapping) else type(value).__name__
