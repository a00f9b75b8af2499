"""Jobs one after the other in this process, or in all processes of a launcher together."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prompttransfer.distributed import processes
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.run_folder import JobOutput
from prompttransfer.runs.workbench import read_tasks
from prompttransfer.runs.worker import RunPlan, Worker, keep_loaded
from prompttransfer.settings.run import RunConfig


class InProcess:
    """The default executor."""

    @contextmanager
    def open(self, config: RunConfig, progress: ProgressReporter) -> Iterator[_Session]:
        worker = Worker(config, progress, read_tasks(config, progress))
        frozen_before = gc.get_freeze_count() > 0
        keep_loaded()
        try:
            yield _Session(worker)
        finally:
            if not frozen_before:
                gc.unfreeze()


class _Session:
    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.plan: RunPlan = worker.plan()

    def results(self, jobs: Sequence[str]) -> Iterator[tuple[str, JobOutput]]:
        """Do jobs. With several processes, all do the jobs of the main one."""
        for job in processes.follow(jobs):
            yield job, self._worker.do(job)
