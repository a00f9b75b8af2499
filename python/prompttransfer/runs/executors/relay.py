"""Relay the progress of a worker to the user's process."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

from prompttransfer.files.progress import ProgressReporter, Work

_SECONDS_BETWEEN_EVENTS = 0.5

Event = tuple[Any, ...]


class Sender(ProgressReporter):
    """Sends progress as events."""

    def __init__(self, send: Callable[[Event], object]) -> None:
        self._send = send
        self._stages = count()

    def stage(self, title: str, total: int) -> Work:
        return _SentWork(title, total, next(self._stages), self._send)

    def note(self, text: str) -> None:
        self._send(("note", text))

    def warn(self, text: str) -> None:
        self._send(("warn", text))


class _SentWork(Work):
    def __init__(self, title: str, total: int, number: int, send: Callable[[Event], object]) -> None:
        super().__init__(title, total)
        self._number, self._send = number, send
        self._sent, self._last = 0, self.start
        send(("stage", number, title, total))

    def advance(self, n: int = 1, **figures: float) -> None:
        super().advance(n, **figures)
        now = time.monotonic()
        if self.done >= self.total or now - self._last >= _SECONDS_BETWEEN_EVENTS:
            self._send(("advance", self._number, self.done - self._sent, dict(self.figures)))
            self._sent, self._last = self.done, now

    def close(self) -> None:
        self._send(("close", self._number))


class Receiver:
    """Passes the events of one worker to a reporter. Notes from several workers are reported once.

    reported: texts reported so far; shared by the receivers of a run.
    """

    def __init__(self, progress: ProgressReporter, reported: set[str]) -> None:
        self._progress, self._reported = progress, reported
        self._stages: dict[int, Work] = {}

    def receive(self, event: Event) -> None:
        kind, *rest = event
        if kind in ("note", "warn"):
            (text,) = rest
            if text not in self._reported:
                self._reported.add(text)
                getattr(self._progress, kind)(text)
        elif kind == "stage":
            number, title, total = rest
            self._stages[number] = self._progress.stage(title, total)
        elif kind == "advance":
            number, n, figures = rest
            self._stages[number].advance(n, **figures)
        else:
            self._stages.pop(rest[0]).close()

    def close(self) -> None:
        """End all stages of a worker that is gone."""
        for work in self._stages.values():
            work.close()
        self._stages.clear()
