"""A stage that fails in the main process, or in all, or waits: started by torchrun, see test_distributed.py."""

import sys
import time
from pathlib import Path

import typer

from prompttransfer.cli.errors import friendly_errors
from prompttransfer.distributed import processes
from prompttransfer.files.store import StageResult, Store

who, folder = sys.argv[1], Path(sys.argv[2])


def compute(work: Path) -> StageResult:
    (folder / f"ready{processes.rank()}").touch()
    if who == "all" or (who == "main" and processes.is_main()):
        raise OSError(5, "on fire", "disk")
    if who == "none":
        time.sleep(100)
    return StageResult()


try:
    with friendly_errors(False, resumes=True):
        Store(folder / str(processes.rank())).cached({}, compute)
except typer.Exit as end:
    sys.exit(end.exit_code)
