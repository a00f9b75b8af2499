"""Workers that load the model once and then do jobs: what worker processes and Ray actors have in common.

The driver gives every idle worker the next job. Jobs that wait for a stage are postponed, and jobs of lost workers are
repeated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.store import StageBusy
from prompttransfer.runs.executors.base import JobFailed
from prompttransfer.runs.executors.payload import Failure, Outcome, RemoteTraceback
from prompttransfer.runs.executors.relay import Receiver
from prompttransfer.runs.run_folder import JobOutput
from prompttransfer.runs.worker import RunPlan

LOADING = ""  # the job of a worker that loads the model
LOSSES = 3  # lost workers before a job is given up


class WorkerLost(Exception):
    """A worker ended before its job was done. The message says how."""


@dataclass(frozen=True)
class Answer:
    """Outcome of a job. worker: the worker's name, with its machine."""

    job: str
    worker: str
    outcome: Outcome | WorkerLost


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
    """The workers, and the session of a run. A worker does one job at a time; a lost one is replaced."""

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
        """Send a job to a worker. wait: wait for stages that other workers are computing."""

    @abstractmethod
    def answers(self) -> list[Answer]:
        """Block until something happens, and return the jobs that have ended."""

    @property
    def plan(self) -> RunPlan:
        """All jobs of the run, from the first worker."""
        while self._plan is None:
            self.answers()
        return self._plan

    def results(self, jobs: Sequence[str]) -> Iterator[tuple[str, JobOutput]]:
        """Give every idle worker the next job until all are done.

        A job that needs a stage which another worker is computing is postponed until some job has ended, so a worker
        waits only if there is no other work.

        Raises:
            JobFailed: a job failed, or its worker was lost `LOSSES` times.
        """
        ready, put_off, losses, left = deque(jobs), deque[str](), Counter[str](), len(jobs)
        while left:
            for _ in range(self.idle()):
                if ready:
                    self.give(ready.popleft(), wait=False)
                elif put_off:
                    self.give(put_off.popleft(), wait=True)
            for answer in self.answers():
                job, outcome = answer.job, answer.outcome
                if isinstance(outcome, Failure):
                    cause = RemoteTraceback(outcome.trace)
                    raise JobFailed(f"{job} failed on {answer.worker}: {outcome.error}") from cause
                if isinstance(outcome, JobOutput):
                    left -= 1
                    ready.extendleft(reversed(put_off))
                    put_off.clear()
                    yield job, outcome
                elif isinstance(outcome, StageBusy):
                    put_off.append(job)
                else:
                    losses[job] += 1
                    if losses[job] == LOSSES:
                        raise JobFailed(f"{job}: given up after {LOSSES} lost workers; {outcome}")
                    ready.appendleft(job)

    def idle(self) -> int:
        """Number of workers without a job."""
        return sum(worker.job is None for worker in self.workers)

    def give(self, job: str, *, wait: bool) -> None:
        """Start a job on an idle worker."""
        worker = next(worker for worker in self.workers if worker.job is None)
        worker.job = job
        self.send(worker, job, wait)

    def receiver(self) -> Receiver:
        """Receiver for the progress of a new worker."""
        return Receiver(self.progress, self._reported)

    def ready(self, worker: W, plan: RunPlan | Failure) -> None:
        """Handle the message that a worker has loaded the model.

        Raises:
            Exception: the error with which it failed to load the model. No other worker would succeed.
            JobFailed: its model differs from that of the first worker.
        """
        if isinstance(plan, Failure):
            raise plan.error
        self._plan = self._plan or plan
        if plan.model != self._plan.model:
            raise JobFailed(
                f"{worker.name} loaded a different model than the first worker: {plan.model} instead of "
                f"{self._plan.model}; want the same model files, precision and kind of device on all machines"
            )
        worker.job = None
        self._failed_starts = 0

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
