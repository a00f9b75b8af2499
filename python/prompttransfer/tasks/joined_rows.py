"""Records that quotation marks have joined from several rows.

A mark at the start of a text may find its pair many rows below, before a delimiter; RFC 4180 then reads all in between
as one field. A text of several lines looks the same, so that only the rest of the file can tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import islice

from prompttransfer.tasks.records import Dialect, Record

_SAMPLE = 1000


class JoinedRows:
    """Tells whether a record is several rows of `count` cells.

    It is where each of its lines makes such a row, and

    - a cell that stands behind the opening mark or before the closing one, a label for instance, stands in the same
      column of another row, or
    - marks stand within fields that are not enclosed: the file does not use them to quote.
    """

    def __init__(self, dialect: Dialect, count: int, records: Callable[[], Iterable[Record]]) -> None:
        """records: all of the file, from its start; the first thousand are read when they are needed."""
        self._dialect, self._count, self._records = dialect, count, records

    def __call__(self, record: Record) -> bool:
        if len(record.lines) == 1 or self._count == 1 or not self._dialect.quotes:
            return False
        rows = [self._dialect.split(line) for line in record.lines]
        if any(len(row) != self._count for row in rows):
            return False
        marks_are_text, usual = self._sample
        opening = max((place for place, cell in enumerate(rows[0]) if cell.startswith('"')), default=self._count)
        closing = next((place for place, cell in enumerate(rows[-1]) if cell.rstrip().endswith('"')), 0)
        outside = [*enumerate(rows[0][opening + 1 :], opening + 1), *enumerate(rows[-1][:closing])]
        return marks_are_text or any((place, cell) in usual for place, cell in outside if cell)

    @cached_property
    def _sample(self) -> tuple[bool, set[tuple[int, str]]]:
        """Whether marks stand within fields that are not enclosed; (column, cell) of the rows without marks."""
        marks_are_text, usual = False, set[tuple[int, str]]()
        for record in islice(self._records(), _SAMPLE):
            if len(record.lines) == 1 and not record.problem and len(record.cells) == self._count:
                if '"' not in record.lines[0]:
                    usual.update(enumerate(record.cells))
                elif self._dialect.split(record.lines[0]) == record.cells:
                    marks_are_text = True
        return marks_are_text, usual
