"""Kill a run with kill -9 at random moments until it finishes. At most a few updates may be lost."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prompttransfer import RunConfig
from tools.reliability.runs import Updates, content, ended_well, placed, rows, started, toy_settings, unreadable


@dataclass
class Report:
    """Result of the kills. lost: repeated updates; allowed: largest number of them."""

    kills: int = 0
    runs: int = 0
    rows_kept: int = 0
    updates: int = 0
    lost: int = 0
    allowed: int = 0

    def line(self) -> str:
        return (
            f"{self.kills} kills in {self.runs} runs: no unreadable file, all results equal to those of an "
            f"uninterrupted run, bit for bit; {self.lost} of {self.updates} updates were done again "
            f"(at most {self.allowed} by the distance of the checkpoints)"
        )


def kill_at_random(folder: Path, times: int, seed: int, say: Callable[[str], None] = lambda text: None) -> Report:
    """Kill runs `times` times in total, and check all files after every kill.

    Raises:
        AssertionError: something was lost; the message says what.
    """
    drawn, report = random.Random(seed), Report()
    config = toy_settings(folder)
    whole = placed(config, folder / "whole")
    counter, start = Updates(folder / "whole.updates"), time.monotonic()
    assert ended_well(os.waitpid(started(whole, counter), 0)[1]), "the uninterrupted run failed"
    seconds, updates, expected = time.monotonic() - start, counter.count, content(whole.output)
    say(f"uninterrupted: {seconds:.1f} s, {updates} updates, {len(expected['rows'])} rows")
    while report.kills < times:
        report.runs += 1
        run = placed(config, folder / f"run{report.runs}")
        counter = Updates(folder / f"run{report.runs}.updates")
        kills = 0
        while (left := times - report.kills - kills) and _killed(run, counter, drawn.uniform(0, seconds)):
            kills += 1
            _check(run, expected["rows"])
        if not left:
            assert ended_well(os.waitpid(started(run, counter), 0)[1]), "the last start failed"
        results = content(run.output)
        assert results.keys() == expected.keys(), f"other files: {sorted(results.keys() ^ expected.keys())}"
        for name in expected:
            assert results[name] == expected[name], f"{run.output}: {name} differs from the uninterrupted run"
        work = [path for path in (run.cache / "work").iterdir()] if run.cache else []
        assert not work, f"work folders were left: {work}"
        allowed = kills * config.checkpoint_updates
        lost = counter.count - updates
        assert lost <= allowed, f"{lost} updates were done again after {kills} kills, at most {allowed} may be"
        report.kills += kills
        report.updates += updates
        report.lost += max(0, lost)
        report.allowed += allowed
        say(f"run {report.runs}: {kills} kills, {lost} updates done again; {report.kills} kills so far")
    return report


def _killed(run: RunConfig, counter: Updates, delay: float) -> bool:
    """Start the run and kill it after a delay; False if it ended before."""
    pid, end = started(run, counter), time.monotonic() + delay
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert ended_well(status), "a start after a kill failed"
            return False
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def _check(run: RunConfig, expected: list[dict[str, object]]) -> None:
    """Check a run folder just after a kill."""
    if not run.output.is_dir():
        return
    broken = unreadable(run.output)
    assert not broken, "\n".join(broken)
    if (run.output / "results.json").is_file():
        unexpected = [row for row in rows(run.output) if row not in expected]
        assert not unexpected, f"rows that the uninterrupted run has not: {unexpected}"
