"""Distribute jobs to workers. Jobs that wait for a stage are postponed, and jobs of lost workers are repeated."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from prompttransfer.files.store import StageBusy
from prompttransfer.runs.executors.base import JobFailed
from prompttransfer.runs.executors.payload import Failure, Outcome, RemoteTraceback
from prompttransfer.runs.run_folder import JobOutput

LOSSES = 3  # lost workers before a job is given up


class WorkerLost(Exception):
    """A worker ended before its job was done. The message says how."""


@dataclass(frozen=True)
class Answer:
    """Outcome of a job. worker: the worker's name, with its machine."""

    job: str
    worker: str
    outcome: Outcome | WorkerLost


class Pool(Protocol):
    """Workers that do one job each at a time. Lost workers are replaced."""

    def idle(self) -> int:
        """Number of workers without a job."""

    def give(self, job: str, *, wait: bool) -> None:
        """Start a job on an idle worker. wait: wait for stages that other workers are computing."""

    def answers(self) -> list[Answer]:
        """Block until something happens, and return the jobs that have ended."""


def dispatch(pool: Pool, jobs: Sequence[str]) -> Iterator[tuple[str, JobOutput]]:
    """Give every idle worker the next job until all are done.

    A job that needs a stage which another worker is computing is postponed until some job has ended, so a worker waits
    only if there is no other work.

    Raises:
        JobFailed: a job failed, or its worker was lost `LOSSES` times.
    """
    ready, put_off, losses, left = deque(jobs), deque[str](), Counter[str](), len(jobs)
    while left:
        for _ in range(pool.idle()):
            if ready:
                pool.give(ready.popleft(), wait=False)
            elif put_off:
                pool.give(put_off.popleft(), wait=True)
        for answer in pool.answers():
            job, outcome = answer.job, answer.outcome
            if isinstance(outcome, Failure):
                raise JobFailed(f"{job} failed on {answer.worker}: {outcome.error}") from RemoteTraceback(outcome.trace)
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
