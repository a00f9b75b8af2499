"""`prompttransfer collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli.command import Result, command
from prompttransfer.cli.running import result_of
from prompttransfer.files.progress import ProgressReporter


@command()
def collect(
    progress: ProgressReporter,
    run: Annotated[Path, typer.Argument(help="Run folder: the --output of `compare --shard`.")],
) -> Result:
    """Join the shards of a run into its run folder, and report.

    Train the sources first, then the parts, in any order, on any machines:

    ```bash
    prompttransfer compare --shard sources --output runs/grid
    prompttransfer compare --shard 1/2 --output runs/grid
    prompttransfer compare --shard 2/2 --output runs/grid
    prompttransfer collect runs/grid
    ```

    Shards that are not finished are named. Collect again when they are.
    """
    from prompttransfer.report import read_results, write_report
    from prompttransfer.runs.shards import collect as collect_shards

    with progress:
        write_report(collect_shards(run, progress))
    return result_of(read_results(run))
