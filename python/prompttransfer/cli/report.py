"""`prompttransfer report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli.command import Result, command
from prompttransfer.files.texts import show


@command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders of `compare` or `train`.")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="HTML file to write.",
            show_default="report.html in the run folder; comparison.html here for several runs",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only the path of the page.")] = False,
) -> Result:
    """Write the report of a run as one HTML page, or of several runs side by side, compared with the first.

    The page is self-contained and opens offline. Runs are compared in pairs of the same method, target and seed.

    ```bash
    prompttransfer report runs/demo
    prompttransfer report runs/demo runs/other --output other.html
    ```
    """
    from prompttransfer.cli.tables import wide_console
    from prompttransfer.report import read_results, write_comparison, write_report
    from prompttransfer.report.side_by_side import comparison_facts, read_runs
    from prompttransfer.report.terminal import print_results, print_runs

    if len(runs) == 1:
        page, results = write_report(runs[0], output), read_results(runs[0])
        facts, tables = results.content, lambda: print_results(results, wide_console())
    else:
        page, several = write_comparison(runs, output or Path("comparison.html")), read_runs(runs)
        facts, tables = comparison_facts(several), lambda: print_runs(several, wide_console())

    def display() -> None:
        if not quiet:
            tables()
        show(str(page) if quiet else f"report: {page}")

    return Result({"report": str(page), **facts}, display)
