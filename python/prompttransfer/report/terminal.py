"""The results of a run as tables on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from prompttransfer.report.results import Results
from prompttransfer.report.side_by_side import Runs, mean_rows, score_rows, setting_rows
from prompttransfer.report.tables import BASELINES, fact_rows, few_rows, in_short, overview_rows, related_in_short
from prompttransfer.tasks.scales import scale_of

_LINES = 40
# With line breaks, so that the table fits into 80 columns.
_HEADS = {
    "zero-shot": "zero-\nshot",
    "majority": "major-\nity",
    "collapsed": "col-\nlapsed",
    "test rows": "test\nrows",
    "train rows": "train\nrows",
    "updates": "up-\ndates",
    "parameters": "params",
    "seconds": "sec-\nonds",
}


def print_results(results: Results, console: Console) -> None:
    """Scores by method and target, then every score in detail."""
    wide = console.width >= 100
    head, rows = overview_rows(results)
    scale = (
        "%" if all(scale_of(metric).top == 100.0 for metric in results.metrics.values()) else "on its metric's scale"
    )
    title = f"Score on {results.judged_on} rows ({scale})"
    console.print(_table(title, head, rows, text=1, wide=wide))
    head, rows = fact_rows(results.cells())
    # To save width, leave out columns with the same value in every row, and other metrics, which are in the report.
    constant = {name for place, name in enumerate(head) if len({row[place] for row in rows}) == 1}
    dropped = constant & {"seeds", "metric", "scoring", "other metrics"} | (set() if wide else {"other metrics"})
    kept = [place for place, name in enumerate(head) if name not in dropped]
    head, rows = [head[place] for place in kept], [[row[place] for place in kept] for row in rows]
    console.print(_table("Scores in detail", head, rows, text=2, wide=wide))
    if any(cell.collapsed for cell in results.cells()):
        console.print("† collapsed: at least 98 % of the test rows got the same answer", style="dim")
    if few := few_rows(results):
        console.print(few, style="dim")
    for line in filter(None, (in_short(results), related_in_short(results))):
        console.print(line, highlight=False, markup=False)


def print_runs(runs: Runs, console: Console) -> None:
    """Differences between runs and mean differences of scores; every score if there are few."""
    wide = console.width >= 100
    head, rows = setting_rows(runs)
    if rows:
        console.print(_table("What differs", head, rows, text=len(head), wide=wide))
    console.print(_table(f"Means, and differences to {runs.first}", *mean_rows(runs), text=1, wide=wide))
    head, rows = score_rows(runs)
    if len(rows) <= _LINES:
        console.print(_table("Every score (pairs)", head, rows, text=2, wide=wide))
    console.print("Pairs of the same method, target and seed; 95 % confidence intervals of Student's t", style="dim")


def _table(title: str, head: list[str], rows: list[list[str]], *, text: int, wide: bool) -> Table:
    """Build a table. The first `text` columns are left-aligned; with two of them, the first groups the rows."""
    gap = 1 if wide else 0
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap, 0, 0))
    for place, name in enumerate(head):
        table.add_column(_HEADS.get(name, name), justify="left" if place < text else "right", no_wrap=place < text)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        last = text == 2 and following is not None and following[0] != row[0]
        table.add_row(*map(Text, row), style="dim" if row[0] in BASELINES else None, end_section=last)
    return table
