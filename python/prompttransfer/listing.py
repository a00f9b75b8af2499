"""Lists for `prompttransfer assets`: what the demo is made of, and its tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from prompttransfer.asset_table import ASSETS
from prompttransfer.assets import cache_folder, fetch, is_fetched


def print_assets(names: Sequence[str], progress: Any, *, fetch_them: bool) -> None:
    """A line for each asset (all if none is named), fetched first if asked for."""
    for name in names:
        if name not in ASSETS:
            near = get_close_matches(name, ASSETS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown asset {name!r}; {hint}there are {', '.join(ASSETS)}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title, justify in (("asset", "left"), ("MB", "right"), ("in cache", "left"), ("licence", "left")):
        table.add_column(title, justify=justify, no_wrap=title != "licence")
    table.add_column("content")
    for name in names or ASSETS:
        if fetch_them:
            fetch(name, progress)
        asset = ASSETS[name]
        state = "yes" if is_fetched(name) else "no"
        table.add_row(f"{asset.name} {asset.version}", f"{asset.megabytes:g}", state, asset.licence, asset.content)
    console = _console()
    console.print(table)
    console.print(f"cache: {cache_folder()}", soft_wrap=True, markup=False)


def print_tasks(names: Sequence[str], progress: Any) -> None:
    """Rows, labels and an example of each demo task (all if none is named), or of files."""
    from prompttransfer.tasks import DEMO_TASKS, load_task

    console = _console()
    for name in names or DEMO_TASKS:
        task = load_task(name, progress=progress)
        counts = Counter(task.test["label"])
        shares = ", ".join(
            f"{choice} {100 * counts[label] / len(task.test):.0f} %" for label, choice in enumerate(task.choices)
        )
        rows = f"{len(task.train):,} train, {len(task.validation):,} validation, {len(task.test):,} test rows"
        example = task.train[0]
        lines = [
            f"{task.name}: {task.origin}",
            f"  {rows}; {task.leaked} left out as they overlap with test rows",
            f"  answers in the test rows: {shares}; metric {task.metric}",
            f"  example: {example['text']!r} -> {task.choices[example['label']]!r}",
        ]
        console.print("\n".join(lines), markup=False, soft_wrap=True)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 120)
    return console
