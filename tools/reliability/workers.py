"""Kill random workers of a run with kill -9. Every row must exist once and equal that of a single process."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.compare import compare
from prompttransfer.runs.executors import Executor, Session
from prompttransfer.runs.executors.pool import LOADING
from prompttransfer.settings.run import RunConfig
from tools.reliability.runs import content, placed, toy_settings


@dataclass
class Report:
    """Result of the disturbances."""

    what: str
    kills: int = 0
    runs: int = 0
    rows: int = 0

    def line(self) -> str:
        return (
            f"{self.kills} times {self.what} in {self.runs} runs: {self.rows} rows, each once and equal to that of one "
            "process, bit for bit"
        )


@dataclass
class Watched:
    """An executor, and the workers of its current run."""

    executor: Any
    workers: tuple[Any, ...] | list[Any] = ()

    @contextmanager
    def open(self, config: RunConfig, progress: ProgressReporter) -> Iterator[Session]:
        with self.executor.open(config, progress) as session:
            self.workers = session.workers
            yield session
        self.workers = ()

    def pids(self) -> list[int]:
        """Process ids of the workers that have a job."""
        names = [worker.name for worker in list(self.workers) if worker.job not in (None, LOADING)]
        return [int(name.rpartition("(pid ")[2].rstrip(")")) for name in names]


def kill_workers(
    folder: Path, executor: Executor, times: int, seed: int, say: Callable[[str], None] = lambda text: None
) -> Report:
    """Kill a random worker, `times` times in total, in as many runs as necessary.

    Raises:
        AssertionError: rows are missing or different; the message says which.
    """
    drawn, watched = random.Random(seed), Watched(executor)

    def kill() -> bool:
        pids = watched.pids()
        if len(pids) < 2:  # otherwise the same job would lose its worker again and again
            return False
        psutil.Process(drawn.choice(pids)).kill()
        return True

    return disturbed(folder, watched, kill, Report("a worker was killed"), times, say, lambda: drawn.uniform(0, 3))


@contextmanager
def disturbing(disturb: Callable[[], bool], times: int, delay: Callable[[], float]) -> Iterator[list[float]]:
    """Disturb what runs in this context, at most `times` times. Yields the moments at which it was disturbed.

    Args:
        disturb: returns whether there was anything to disturb.
        delay: seconds between two attempts.
    """
    moments: list[float] = []
    over = threading.Event()

    def keep_disturbing() -> None:
        while len(moments) < times and not over.wait(delay()):
            if disturb():
                moments.append(time.monotonic())

    thread = threading.Thread(target=keep_disturbing)
    thread.start()
    try:
        yield moments
    finally:
        over.set()
        thread.join()


def disturbed(
    folder: Path,
    executor: Executor,
    disturb: Callable[[], bool],
    report: Report,
    times: int,
    say: Callable[[str], None],
    delay: Callable[[], float],
    repair: Callable[[], None] = lambda: None,
) -> Report:
    """Compare runs with occasional disturbances, see `disturbing`, with an undisturbed run in this process.

    Args:
        repair: called before every run.
    """
    torch.set_num_threads(1)
    config = toy_settings(folder).model_copy(update={"seeds": (1, 2, 3), "target_updates": 40})
    alone = placed(config, folder / "alone")
    expected = content(compare(alone))
    while report.kills < times:
        repair()
        report.runs += 1
        run = placed(config, folder / f"disturbed{report.runs}")
        with disturbing(disturb, times - report.kills, delay) as moments:
            compare(run, executor=executor)
        report.kills += len(moments)
        results = content(run.output)
        assert results.keys() == expected.keys(), f"other files: {sorted(results.keys() ^ expected.keys())}"
        for name in expected:
            assert results[name] == expected[name], f"{name} differs from the run of one process"
        report.rows += len(results["rows"])
        say(f"run {report.runs}: {report.kills} so far")
    return report
