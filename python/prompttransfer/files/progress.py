"""Progress of long work: bars with the time left on a terminal, occasional lines in a log or a notebook."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_SECONDS_BETWEEN_LINES = 15.0


class Work:
    """One piece of work of `total` steps."""

    def __init__(self, title: str, total: int) -> None:
        self.title = title
        self.total = total
        self.done = 0
        self.figures: dict[str, float] = {}
        self.start = time.monotonic()

    def advance(self, n: int = 1, **figures: float) -> None:
        """Record n finished steps. Figures (loss=...) are shown next to them."""
        self.done += n
        self.figures.update(figures)

    def close(self) -> None:
        """End the work, finished or not."""

    def line(self) -> str:
        """Summary in one line."""
        seconds = time.monotonic() - self.start
        figures = "".join(f", {name} {value:.3g}" for name, value in self.figures.items())
        if self.done >= self.total:
            return f"{self.title}: done in {seconds:.0f} s{figures}"
        left = f", {seconds / self.done * (self.total - self.done):.0f} s left" if self.done else ""
        return f"{self.title}: {100 * self.done // max(1, self.total)} %{left}{figures}"


class ProgressReporter:
    """Reports the progress of work. This one reports nothing; for libraries and tests."""

    def stage(self, title: str, total: int) -> Work:
        """Begin a piece of work of `total` steps."""
        return Work(title, total)

    def note(self, text: str) -> None:
        """Report something that was done."""

    def warn(self, text: str) -> None:
        """Report something that must be known, even if progress is not shown."""

    def __enter__(self) -> ProgressReporter:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class QuietProgress(ProgressReporter):
    """Shows only warnings, on standard error."""

    def warn(self, text: str) -> None:
        print(text, file=sys.stderr)


class Progress(ProgressReporter):
    """Shows progress on standard error, so that standard output has only results."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or _error_stream()
        self._last_note = ""
        self._bars: RichProgress | None = None
        if self.console.is_terminal:
            self._bars = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                console=self.console,
                transient=True,
            )

    def stage(self, title: str, total: int) -> Work:
        if self._bars is None:
            return _Lines(title, total, self.console)
        return _Bar(title, total, self._bars)

    def note(self, text: str) -> None:
        if text != self._last_note:  # for example, the third task from the same archive
            self.console.print(text, markup=False, soft_wrap=True)
        self._last_note = text

    def warn(self, text: str) -> None:
        self.note(text)

    def __enter__(self) -> Progress:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()


def _error_stream() -> Console:
    console = Console(stderr=True, highlight=False)
    if console.is_jupyter:  # lines in one output of the cell, where rich would make an output of each
        console = Console(stderr=True, highlight=False, force_jupyter=False, force_terminal=False)
    return console


class _Bar(Work):
    def __init__(self, title: str, total: int, bars: RichProgress) -> None:
        super().__init__(title, total)
        self._bars = bars
        self._id = bars.add_task(title, total=total, figures="")

    def advance(self, n: int = 1, **figures: float) -> None:
        super().advance(n, **figures)
        text = " ".join(f"{name} {value:.3g}" for name, value in self.figures.items())
        self._bars.update(self._id, advance=n, figures=text)

    def close(self) -> None:
        self._bars.remove_task(self._id)
        self._bars.console.print(self.line(), markup=False, soft_wrap=True)


class _Lines(Work):
    def __init__(self, title: str, total: int, console: Console) -> None:
        super().__init__(title, total)
        self._console = console
        self._last = self.start

    def advance(self, n: int = 1, **figures: float) -> None:
        super().advance(n, **figures)
        now = time.monotonic()
        if self.done < self.total and now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            self._console.print(self.line(), markup=False, soft_wrap=True)

    def close(self) -> None:
        self._console.print(self.line(), markup=False, soft_wrap=True)
