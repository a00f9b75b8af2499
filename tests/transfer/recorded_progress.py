"""Progress that records its notes, warnings and works."""

from __future__ import annotations

from prompttransfer.files.progress import ProgressReporter, Work


class RecordedProgress(ProgressReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.works: list[Work] = []

    def stage(self, title: str, total: int) -> Work:
        self.works.append(Work(title, total))
        return self.works[-1]

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
