"""Read JSON written by people. Everything that is wrong with it raises a clear `ValueError`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from prompttransfer.files.texts import check_text, read_text


def read_json(path: Path) -> Any:
    """Read a JSON file. Errors name the file and the place of a mistake or a duplicate key."""
    text = read_text(path)
    try:
        return _checked(parse_json(text, object_pairs_hook=_unique))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def parse_json(text: str, **options: Any) -> Any:
    """`json.loads` that raises only ValueError, also for deep nesting and numbers of thousands of digits."""
    try:
        return json.loads(text, **options)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"not JSON: {error.msg} in {place}") from error
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _checked(content: Any) -> Any:
    """Check that all texts in a JSON value can be encoded."""
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, str):
            check_text(value, "a text")
        elif isinstance(value, dict):
            left += (*value, *value.values())
        elif isinstance(value, list):
            left += value
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is given twice")
    return content
