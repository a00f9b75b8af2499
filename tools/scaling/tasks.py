"""Cost of many tasks in addition to the model's work: whole runs on a toy model with more and more source tasks."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from bench.toy import write_model, write_tasks
from prompttransfer import RunConfig
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.compare import compare
from prompttransfer.runs.workbench import Workbench

ROWS = 100


def many_tasks(counts: Sequence[int]) -> list[dict[str, Any]]:
    """For each number of sources: seconds to load all tasks without leaks, for the run, and for a target's row after
    all sources; and the files and bytes written."""
    return [_run(count) for count in counts]


def _run(count: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tasks-") as name:
        folder = Path(name)
        before = os.environ.get("PROMPTTRANSFER_CACHE")
        os.environ["PROMPTTRANSFER_CACHE"] = str(folder / "cache")  # rendered rows
        try:
            return {"sources": count, **_measured(folder, count)}
        finally:
            del os.environ["PROMPTTRANSFER_CACHE"]
            if before is not None:
                os.environ["PROMPTTRANSFER_CACHE"] = before


def _measured(folder: Path, count: int) -> dict[str, Any]:
    sources = write_tasks(folder / "tasks", [f"s{index}" for index in range(count)], ROWS)
    targets = write_tasks(folder / "tasks", ["t0", "t1"], ROWS, seed=1_000_000)

    def config(*target_files: str) -> RunConfig:
        return RunConfig(
            model=str(folder / "model"),
            sources=tuple(sources),
            targets=target_files,
            methods=("SPoT", "DTVG"),
            prompt_length=4,
            train_rows=8,
            test_rows=8,
            source_updates=2,
            target_updates=2,
            batch_size=4,
            source_batch_size=4,
            precision="float32",
            output=folder / f"run-{len(target_files)}",
            cache=folder / "stages",
        )

    write_model(folder / "model")
    rss = psutil.Process().memory_info().rss
    started = time.perf_counter()
    work = Workbench(config(*targets), ProgressReporter())
    work.context(42)
    loaded = time.perf_counter()
    grown = psutil.Process().memory_info().rss - rss
    del work
    compare(config(targets[0]))
    done = time.perf_counter()
    compare(config(*targets))  # the sources are in the store now
    again = time.perf_counter()
    left = {
        place: [file.stat().st_size for file in (folder / place).rglob("*") if file.is_file()]
        for place in ("stages", "run-2")
    }
    return {
        "seconds_to_load": loaded - started,
        "loaded_mib": grown / 2**20,
        "seconds_of_run": done - loaded,
        "seconds_with_sources_done": again - done,
        **{f"files_{place}": len(sizes) for place, sizes in left.items()},
        **{f"bytes_{place}": sum(sizes) for place, sizes in left.items()},
    }
