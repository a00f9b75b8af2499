"""Run commands one after the other with time limits, and pack their output after each one."""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # where commands run
_LEAST = 5.0  # seconds; with less time left, a part is not started
_GRACE = 3.0  # seconds between SIGTERM and SIGKILL
_LONGEST_LOG = 4 << 20  # bytes; only the end of a longer log is kept
ARCHIVE, SUMMARY = "results.tar.gz", "summary.txt"


@dataclass(frozen=True)
class Part:
    """One command.

    Args:
        name: name of its log, and of a folder for its other output.
        seconds: time limit, to which unused time of earlier parts is added.
        command: command to run; None if a tool is missing, which `missing` names.
        needs: name of a part that must succeed first.
    """

    name: str
    seconds: float
    command: list[str] | None
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: str = ""
    missing: str = ""


class Session:
    """Run parts in a work folder. ``out`` gets an archive of it and a summary, updated after each part.

    Args:
        out: folder for the archive and the summary.
        work: folder for the parts' logs and results.
        budget: seconds for everything, from now on.
    """

    def __init__(self, out: Path, work: Path, budget: float) -> None:
        self.out, self.work, self.budget = out, work, budget
        self.begin, self.planned = time.monotonic(), 0.0
        self.status: dict[str, str] = {}
        out.mkdir(parents=True, exist_ok=True)
        (work / SUMMARY).write_text("")

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.begin

    @property
    def failed(self) -> int:
        return sum(status in ("FAILED", "TIMEOUT") for status in self.status.values())

    def say(self, line: str) -> None:
        print(line, flush=True)
        with (self.work / SUMMARY).open("a") as summary:
            summary.write(line + "\n")

    def run(self, part: Part, environment: Mapping[str, str]) -> None:
        """Run one part and pack. The output of a part that fails or times out is kept."""
        limit = min(self.budget - self.elapsed, part.seconds + max(0.0, self.planned - self.elapsed))
        self.planned += part.seconds
        if part.command is None:
            self._end(part, "skipped", 0.0, part.missing)
        elif part.needs and self.status.get(part.needs, "ok") != "ok":
            self._end(part, "skipped", 0.0, f"{part.needs} did not succeed")
        elif limit < _LEAST:
            self._end(part, "skipped", 0.0, "no time left")
        else:
            (self.work / part.name).mkdir(exist_ok=True)
            began, log = self.elapsed, self.work / f"{part.name}.log"
            with log.open("wb") as output:
                code = _within(limit, part.command, {**environment, **part.environment}, output)
            status = {0: "ok", None: "TIMEOUT"}.get(code, "FAILED")
            prefix = f"exit code {code}: " if status == "FAILED" else ""
            self._end(part, status, self.elapsed - began, prefix + _last_line(log))

    def _end(self, part: Part, status: str, seconds: float, what: str) -> None:
        self.status[part.name] = status
        self.say(f"{status:<8} {part.name:<12} {seconds:6.1f} s  {what}")
        self.pack()

    def pack(self) -> None:
        """Write the archive atomically, and the summary."""
        for log in self.work.glob("*.log"):
            _shorten(log)
        unfinished = self.out / f".{ARCHIVE}"
        with tarfile.open(unfinished, "w:gz") as archive:
            archive.add(self.work, "results")
        os.replace(unfinished, self.out / ARCHIVE)
        (self.out / SUMMARY).write_text((self.work / SUMMARY).read_text())


def _within(limit: float, command: list[str], environment: Mapping[str, str], output) -> int | None:
    """Exit code of a command; None if it timed out and was ended with all its child processes."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also if this process is asked to end
        for number in (signal.SIGTERM, signal.SIGKILL):
            _signal_group(process.pid, number)
            try:
                process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                continue


def _signal_group(leader: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(leader, number)


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:150] if lines else ""


def _shorten(log: Path) -> None:
    size = log.stat().st_size
    if size > _LONGEST_LOG:
        with log.open("rb") as whole:
            whole.seek(size - _LONGEST_LOG)
            end = whole.read()
        log.write_bytes(b"(the beginning was left out)\n" + end)
