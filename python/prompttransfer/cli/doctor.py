"""`prompttransfer doctor`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prompttransfer.cli.command import Result, command
from prompttransfer.cli.errors import FAILED
from prompttransfer.files.texts import show


@command()
def doctor(
    offline: Annotated[bool, typer.Option("--offline", help="Do not try to reach the model hub.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show problems only.")] = False,
) -> Result:
    """Check this machine: what works, what does not and why, and what to do about it.

    It checks the versions of Python, torch and transformers; the backends of the operations; GPU, bfloat16, threads and
    memory; compilers; the cache folder; the files of the demo; the model hub; and optional packages.

    Exit code 0: training can run here, even if something else is missing. 1: a problem prevents training.

    ```bash
    prompttransfer doctor
    prompttransfer doctor --offline --json
    ```
    """
    from prompttransfer.cli.checks import examine

    findings = examine(offline=offline)
    problems = [finding for finding in findings if finding.state == "problem"]

    def display() -> None:
        if shown := problems if quiet else findings:
            _print(shown)
        if problems:
            show("a problem prevents training here")
        elif not quiet:
            show("training can run here")

    facts = {"healthy": not problems, "findings": [finding._asdict() for finding in findings]}
    return Result(facts, display, FAILED if problems else 0)


def _print(findings: list[Any]) -> None:
    """Print a line for each finding, and the advice below it, if any."""
    from rich.table import Table
    from rich.text import Text

    from prompttransfer.cli.tables import wide_console

    styles = {"ok": "green", "note": "yellow", "problem": "bold red"}
    table = Table.grid(padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(Text(finding.state, styles[finding.state]), finding.name, Text(finding.found))
        if finding.advice:
            table.add_row("", "", Text(f"-> {finding.advice}", "dim"))
    wide_console().print(table)
