"""Tables on the terminal."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def wide_console() -> Console:
    """The terminal, or a wide console for a pipe or a file, where 80 columns would break lines."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, 140)
    return console


def print_table(
    rows: Sequence[Mapping[str, Any]],
    right: Collection[str] = (),
    console: Console | None = None,
    *,
    whole: Collection[str] = (),
) -> None:
    """Print a table with the keys of the rows as column headers.

    Args:
        right: columns of numbers, which are right-aligned and never wrapped.
        whole: columns of names to copy, which are never wrapped either.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    heads = list(dict.fromkeys(head for row in rows for head in row))
    for head in heads:
        figures = head in right
        table.add_column(
            head, justify="right" if figures else "left", no_wrap=figures or head in whole, overflow="fold"
        )
    for row in rows:
        table.add_row(*(_shown(row.get(head)) for head in heads))
    (console or wide_console()).print(table)


def _shown(value: str | float | None) -> Text:
    if isinstance(value, float):
        return Text(f"{value:.1f}")
    return Text("" if value is None else f"{value:,}" if isinstance(value, int) else value)
