"""Lists of what the demo is made of and of what lies in the cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from prompttransfer.files.assets import is_fetched
from prompttransfer.files.assets.table import ASSETS
from prompttransfer.files.cache import cache_folder, folder_bytes
from prompttransfer.files.cache_parts import PARTS, folders_of, size


def asset_facts(names: Sequence[str] = ()) -> dict[str, Any]:
    """The cache folder, the assets (all if none is named) and, if none is named, the other parts of the cache."""
    assets = [
        {
            "name": asset.name,
            "version": asset.version,
            "megabytes": asset.megabytes,
            "in_cache": is_fetched(asset.name),
            "licence": asset.licence,
            "content": asset.content,
        }
        for asset in ASSETS.values()
        if not names or asset.name in names
    ]
    parts = [
        {"name": name, "bytes": sum(map(folder_bytes, folders_of(name))), "content": part.content}
        for name, part in PARTS.items()
        if not names or name in names
    ]
    return {"cache": str(cache_folder()), "assets": assets, "parts": parts}


def print_assets(facts: dict[str, Any]) -> None:
    """`asset_facts` as tables."""
    console = wide_console()
    if facts["assets"]:
        table = plain_table("asset", ("MB", "right"), "in cache", "licence", "content")
        for asset in facts["assets"]:
            name, here = f"{asset['name']} {asset['version']}", "yes" if asset["in_cache"] else "no"
            table.add_row(name, f"{asset['megabytes']:g}", here, asset["licence"], asset["content"])
        console.print(table)
    if facts["parts"]:
        table = plain_table("also in the cache", ("size", "right"), "content")
        for part in facts["parts"]:
            table.add_row(part["name"], size(part["bytes"]) if part["bytes"] else "", part["content"])
        console.print(table)
    console.print(f"cache: {facts['cache']}", soft_wrap=True, markup=False)


def wide_console() -> Console:
    """The terminal; a pipe or a file has no width of its own, and 80 columns would break the lines."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = max(console.width, 140)
    return console


def plain_table(first: str, *others: str | tuple[str, str]) -> Table:
    """Columns by title, or by title and side; the first one and figures are never broken."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in (first, *others):
        title, justify = (column, "left") if isinstance(column, str) else column
        table.add_column(title, justify=justify, no_wrap=title in (first, "MB", "size", "in cache"))  # type: ignore[arg-type]
    return table
