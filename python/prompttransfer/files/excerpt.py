"""Excerpts of data for error messages: enough to find it, never all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

LONGEST = 80  # characters of one value
MOST = 12  # values of a list


def shown(value: Any) -> str:
    """The repr of a value, shortened if it is long."""
    # Only the visible part is converted, because a cell may be a whole document.
    return cut(repr(value[: LONGEST + 1] if isinstance(value, (str, bytes)) else value))


def cut(text: str) -> str:
    """A text, shortened if it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def listed(values: Iterable[Any], show: Callable[[Any], str] = shown) -> str:
    """The first values, joined by commas, and the number of others."""
    values = list(values)
    more = f" and {len(values) - MOST} more" if len(values) > MOST else ""
    return ", ".join(map(show, values[:MOST])) + more


def meant(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message: the most similar known name; "" if there is none."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {shown(near[0])}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
