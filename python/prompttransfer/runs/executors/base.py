"""Interface of an executor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.run_folder import JobOutput
from prompttransfer.runs.worker import RunPlan
from prompttransfer.settings.run import RunConfig


class Session(Protocol):
    """A run in progress."""

    @property
    def plan(self) -> RunPlan:
        """All jobs of the run."""

    def results(self, jobs: Sequence[str]) -> Iterator[tuple[str, JobOutput]]:
        """Do jobs; yields each with its output as soon as it is done."""


class Executor(Protocol):
    """Does the jobs of a run."""

    def open(self, config: RunConfig, progress: ProgressReporter) -> AbstractContextManager[Session]:
        """Read the tasks, load the model and start the workers. All of it ends with the context."""


class JobFailed(RuntimeError):
    """A job failed on a worker, or too many workers were lost while doing it."""
