"""`prompttransfer report`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.support import friendly_errors
from prompttransfer.files.texts import show, show_json


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders of `compare` or `train`.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The page.", show_default="report.html in the run folder; of several, comparison.html here"),
    ] = None,
    as_json: o.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the path of the page.")] = False,
    debug: o.Debug = False,
) -> None:
    """Write the report of a run as one HTML page, or of several runs side by side, compared with the first.

    The page needs nothing else: it opens offline. Runs are compared in pairs of the same method, target and seed.

    Examples:

    `prompttransfer report runs/demo`

    `prompttransfer report runs/demo runs/other --output other.html`
    """
    with friendly_errors(debug):
        from prompttransfer.cli.listing import wide_console
        from prompttransfer.report import read_results, write_comparison, write_report
        from prompttransfer.report.side_by_side import comparison_facts, read_runs
        from prompttransfer.report.terminal import print_results, print_runs

        if len(runs) == 1:
            page, found = write_report(runs[0], output), read_results(runs[0])
            facts, display = found.content, partial(print_results, found)
        else:
            page, several = write_comparison(runs, output or Path("comparison.html")), read_runs(runs)
            facts, display = comparison_facts(several), partial(print_runs, several)
        if as_json:
            show_json({"report": str(page), **facts})
            return
        if not quiet:
            display(wide_console())
        show(str(page) if quiet else f"report: {page}")
