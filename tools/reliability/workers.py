"""Several workers fill one run folder while some of them are killed: every row is there once, as from one process."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.reliability.runs import Updates, content, ended_well, placed, started, toy_settings


@dataclass
class Report:
    """What happened; done: updates of all workers together, where one process alone makes `updates`."""

    workers: int
    kills: int = 0
    runs: int = 0
    rows: int = 0
    updates: int = 0
    done: int = 0

    def line(self) -> str:
        return (
            f"{self.workers} workers, {self.kills} of them killed and replaced in {self.runs} runs: {self.rows} rows, "
            f"each once and equal to that of one process, bit for bit; {self.done - self.updates} of {self.updates} "
            "updates were done again"
        )


def kill_workers(
    folder: Path, workers: int, times: int, seed: int, say: Callable[[str], None] = lambda text: None
) -> Report:
    """Keep `workers` workers at one folder; kill one at random, and start another in its place, `times` times in all.

    Raises:
        AssertionError: rows are missing, twice there or different; says what.
    """
    drawn, config, report = random.Random(seed), toy_settings(folder), Report(workers)
    alone, single, start = placed(config, folder / "alone"), Updates(folder / "alone.updates"), time.monotonic()
    assert ended_well(os.waitpid(started(alone, single), 0)[1]), "the run of one process failed"
    seconds, expected = time.monotonic() - start, content(alone.output)
    say(f"one process: {seconds:.1f} s, {single.count} updates")
    while report.kills < times:
        report.runs += 1
        run = placed(config, folder / f"together{report.runs}")
        shared = Updates(folder / f"together{report.runs}.updates")
        pids = [started(run, shared) for _ in range(workers)]
        kills = 0
        while report.kills + kills < times:
            time.sleep(drawn.uniform(0, seconds))
            place = drawn.randrange(workers)
            os.kill(pids[place], signal.SIGKILL)  # one that has ended is still there to be waited for
            if ended_well(os.waitpid(pids[place], 0)[1]):
                del pids[place]
                break
            pids[place] = started(run, shared)
            kills += 1
        ends = [os.waitpid(pid, 0)[1] for pid in pids]
        assert all(map(ended_well, ends)), f"a worker failed: {ends}"
        found = content(run.output)
        assert found.keys() == expected.keys(), f"other files: {sorted(found.keys() ^ expected.keys())}"
        for name in expected:
            assert found[name] == expected[name], f"{name} differs from the run of one process"
        report.kills += kills
        report.rows += len(found["rows"])
        report.updates += single.count
        report.done += shared.count
        say(f"run {report.runs}: {kills} kills, {shared.count} updates")
    return report
