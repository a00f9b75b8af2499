"""Cost of an executor per job, measured with jobs that do nothing, until the last row is in the run folder.

python -m bench.executors --jobs 10000 --workers 2
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from prompttransfer import RunConfig
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.executors import LocalWorkers
from prompttransfer.runs.rows import TargetRow
from prompttransfer.runs.run_folder import JobOutput, RunFolder
from prompttransfer.runs.worker import RunPlan


@dataclass
class Idle:
    """A worker, and its own payload, whose jobs do nothing."""

    jobs: int

    def open(self, progress: ProgressReporter, **_: object) -> Idle:
        return self

    @property
    def plan(self) -> RunPlan:
        names = [f"PT-task{n}-seed1" for n in range(self.jobs)]
        return RunPlan(tuple(names), {}, dict.fromkeys(names, "key"), {}, {})

    def do(self, job: str, *, wait: bool) -> JobOutput:
        row = TargetRow(
            method="PT",
            target=job.split("-")[1],
            seed=1,
            metric="accuracy",
            scoring="full",
            score=50.0,
            other_scores={},
            majority=50.0,
            zero_shot=50.0,
            collapsed=False,
            test_rows=1,
            train_rows=1,
            leaked_rows=0,
            skipped_rows=0,
            trainable_parameters=1,
            target_updates=1,
            target_examples=1,
            source_updates=0,
            seconds=0.0,
            notes="",
        )
        return JobOutput(row, {})


def measure(jobs: int, workers: int, kind: str) -> tuple[float, float]:
    """Seconds until the workers are ready, and seconds for all jobs after that."""
    progress, payload = ProgressReporter(), Idle(jobs)
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig(output=Path(folder) / "run")
        began = time.monotonic()
        if kind == "processes":
            opened = LocalWorkers(workers).pool(payload, progress)  # type: ignore[arg-type]
        else:
            from prompttransfer.runs.executors.cluster import Cluster

            opened = Cluster(workers=workers).pool(payload, Path(folder) / "cache", None, progress)  # type: ignore[arg-type]
        with opened as session:
            plan = session.plan
            ready = time.monotonic()
            with RunFolder(config.output, config, {}, plan.keys, progress) as run:
                for job, output in session.results(plan.order):
                    run.add(job, output)
                run.collect()
            return ready - began, time.monotonic() - ready


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.executors", description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    for kind in ("processes", "ray"):
        start, seconds = measure(options.jobs, options.workers, kind)
        each = 1000 * seconds / options.jobs
        print(f"{kind}: ready after {start:.1f} s; {options.jobs} jobs in {seconds:.1f} s, {each:.2f} ms each")


if __name__ == "__main__":
    main()
