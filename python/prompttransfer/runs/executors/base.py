"""What an executor is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.run_folder import Made
from prompttransfer.runs.worker import RunPlan
from prompttransfer.settings.run import RunConfig


class Session(Protocol):
    """A run at work."""

    @property
    def plan(self) -> RunPlan:
        """All jobs of the run."""

    def results(self, jobs: Sequence[str]) -> Iterator[tuple[str, Made]]:
        """Do jobs, and return each with what it left as soon as it is done."""


class Executor(Protocol):
    """Does the jobs of a run."""

    def open(self, config: RunConfig, progress: ProgressReporter) -> AbstractContextManager[Session]:
        """Read the tasks, load the model, and start what does the jobs; all of it ends with the context."""


class JobFailed(RuntimeError):
    """A job failed on a worker, or took too many workers down with it."""
