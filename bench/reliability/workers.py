"""Several workers fill one run folder while some of them are killed: every row is there once, as from one process."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.reliability.runs import Updates, content, ended_well, placed, started, toy_settings


@dataclass
class Report:
    workers: int
    kills: int
    rows: int
    updates: int
    done: int

    def line(self) -> str:
        return (
            f"{self.workers} workers, {self.kills} of them killed and replaced: {self.rows} rows, each once and equal "
            f"to those of one process, bit for bit; {self.done} updates in all where one process makes {self.updates}"
        )


def kill_workers(
    folder: Path, workers: int, times: int, seed: int, say: Callable[[str], None] = lambda text: None
) -> Report:
    """Keep `workers` workers at one folder; kill one at random, and start another in its place, `times` times.

    Raises:
        AssertionError: rows are missing, twice there or different; says what.
    """
    drawn, config = random.Random(seed), toy_settings(folder)
    alone, start = placed(config, folder / "alone"), time.monotonic()
    single, shared = Updates(folder / "alone.updates"), Updates(folder / "shared.updates")
    assert ended_well(os.waitpid(started(alone, single), 0)[1]), "the run of one process failed"
    seconds, expected = time.monotonic() - start, content(alone.output)
    say(f"one process: {seconds:.1f} s, {single.count} updates")
    run = placed(config, folder / "together")
    pids = [started(run, shared) for _ in range(workers)]
    kills = 0
    while kills < times:
        time.sleep(drawn.uniform(0, seconds / times))
        victim = drawn.choice(pids)
        os.kill(victim, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(victim, 0)[1]) != -signal.SIGKILL:
            pids.remove(victim)
            break  # everything was done
        pids[pids.index(victim)] = started(run, shared)
        kills += 1
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    assert all(map(ended_well, ends)), f"a worker failed: {ends}"
    found = content(run.output)
    assert found.keys() == expected.keys(), f"other files: {sorted(found.keys() ^ expected.keys())}"
    for name in expected:
        assert found[name] == expected[name], f"{name} differs from the run of one process"
    return Report(workers, kills, len(found["rows"]), single.count, shared.count)
