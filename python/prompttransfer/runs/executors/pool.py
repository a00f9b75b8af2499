"""Workers of a run that load the model once and then do jobs: common code of worker processes and Ray actors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.executors.base import JobFailed
from prompttransfer.runs.executors.dispatch import LOSSES, Answer, WorkerLost, dispatch
from prompttransfer.runs.executors.payload import Failure
from prompttransfer.runs.executors.relay import Receiver
from prompttransfer.runs.run_folder import JobOutput
from prompttransfer.runs.worker import RunPlan

LOADING = ""  # the job of a worker that loads the model


class PooledWorker:
    """A worker as the driver sees it.

    Attributes:
        name: name of the worker, with its machine.
        job: current job; None: idle.
    """

    def __init__(self, name: str, receiver: Receiver) -> None:
        self.name, self.receiver = name, receiver
        self.job: str | None = LOADING


W = TypeVar("W", bound=PooledWorker)


class WorkerPool(ABC, Generic[W]):
    """The workers, and the session of a run."""

    def __init__(self, progress: ProgressReporter) -> None:
        self.progress = progress
        self.workers: list[W] = []
        self._reported: set[str] = set()
        self._failed_starts = 0
        self._plan: RunPlan | None = None

    @abstractmethod
    def start(self) -> None:
        """Add a worker to the pool. It is ready later."""

    @abstractmethod
    def send(self, worker: W, job: str, wait: bool) -> None:
        """Send a job to a worker."""

    @abstractmethod
    def answers(self) -> list[Answer]:
        """See `dispatch.Pool`."""

    @property
    def plan(self) -> RunPlan:
        """All jobs of the run, from the first worker."""
        while self._plan is None:
            self.answers()
        return self._plan

    def results(self, jobs: Sequence[str]) -> Iterator[tuple[str, JobOutput]]:
        """See `Session`."""
        return dispatch(self, jobs)

    def idle(self) -> int:
        """See `dispatch.Pool`."""
        return sum(worker.job is None for worker in self.workers)

    def give(self, job: str, *, wait: bool) -> None:
        """See `dispatch.Pool`."""
        worker = next(worker for worker in self.workers if worker.job is None)
        worker.job = job
        self.send(worker, job, wait)

    def receiver(self) -> Receiver:
        """Receiver for the progress of a new worker."""
        return Receiver(self.progress, self._reported)

    @property
    def plans(self) -> bool:
        """Whether the next worker must make the plan."""
        return self._plan is None and not self.workers

    def ready(self, worker: W, plan: RunPlan | Failure | None) -> None:
        """Handle the message that a worker has loaded the model.

        Raises:
            Exception: the error with which it failed to load the model. No other worker would succeed.
        """
        if isinstance(plan, Failure):
            raise plan.error
        worker.job = None
        self._failed_starts = 0
        self._plan = self._plan or plan

    def replaced(self, worker: W, how: str) -> Answer | None:
        """Replace a lost worker; return the answer for its job, if it had one."""
        self.workers.remove(worker)
        worker.receiver.close()
        lost = WorkerLost(f"{worker.name} {how}")
        if worker.job == LOADING:
            self._failed_starts += 1
            if self._failed_starts == LOSSES:
                raise JobFailed(f"{lost} while it loaded the model")
        self.progress.warn(f"{lost}; another worker takes its place")
        self.start()
        return Answer(worker.job, worker.name, lost) if worker.job else None
