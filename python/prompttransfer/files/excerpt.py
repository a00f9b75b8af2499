"""What an error shows of data: enough to find it, never all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any

LONGEST = 80  # characters of one value
MOST = 12  # values of a list


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    # No more than is shown is written: a cell may be a whole document.
    return cut(repr(value[: LONGEST + 1] if isinstance(value, (str, bytes)) else value))


def cut(text: str) -> str:
    """A text, cut where it is long."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def listed(values: Iterable[Any], show: Callable[[Any], str] = shown) -> str:
    """The first values with commas between them, and how many more there are."""
    values = list(values)
    more = f" and {len(values) - MOST} more" if len(values) > MOST else ""
    return ", ".join(map(show, values[:MOST])) + more


def meant(name: str, known: Iterable[str]) -> str:
    """A suggestion to end a message with: the known name that is most like this one; "" if none is."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {shown(near[0])}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its type where it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
