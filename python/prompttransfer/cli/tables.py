"""Tables on the terminal."""

from __future__ import annotations

import os

from rich import box
from rich.console import Console
from rich.table import Table


def wide_console() -> Console:
    """The terminal; a pipe or a file has no width of its own, and 80 columns would break the lines."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, 140)
    return console


def plain_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table with these columns; those named in `right` hold figures, and neither they nor the first are broken."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for title in columns:
        table.add_column(title, justify="right" if title in right else "left", no_wrap=title in (columns[0], *right))
    return table
