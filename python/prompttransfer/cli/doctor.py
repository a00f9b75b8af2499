"""`prompttransfer doctor`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.errors import FAILED, friendly_errors
from prompttransfer.files.texts import show, show_json


def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Do not try to reach the model hub.")] = False,
    as_json: o.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show problems only.")] = False,
    debug: o.Debug = False,
) -> None:
    """Look at this machine: what runs, what does not and why, what to do about it.

    Python, torch and transformers and whether these versions are tested; the backends of the operations; GPU,
    bfloat16, threads, memory; compilers; the cache folder; the demo's files; the model hub; optional packages.

    Exit code 0: training can run here, whatever else is missing; 1: something keeps it from running.

    Examples:

    `prompttransfer doctor`

    `prompttransfer doctor --offline --json`
    """
    with friendly_errors(debug):
        from prompttransfer.cli.checks import examine

        findings = examine(offline=offline)
        problem = any(finding.state == "problem" for finding in findings)
        if as_json:
            show_json({"healthy": not problem, "findings": [f._asdict() for f in findings]})
        else:
            shown = [f for f in findings if not quiet or f.state == "problem"]
            if shown:
                _print(shown)
            if problem:
                show("something keeps training from running here")
            elif not quiet:
                show("training can run here")
    raise typer.Exit(FAILED if problem else 0)


def _print(findings: list[Any]) -> None:
    """A line for each finding, and one below where there is something to do."""
    from rich.table import Table
    from rich.text import Text

    from prompttransfer.cli.listing import wide_console

    styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(Text(finding.state, styles[finding.state]), finding.name, Text(finding.found))
        if finding.advice:
            table.add_row("", "", Text(f"-> {finding.advice}", "dim"))
    wide_console().print(table)
