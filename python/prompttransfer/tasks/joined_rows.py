"""Detect records in which stray quotation marks join several rows.

A mark at the start of a text may be matched by one many rows below, before a delimiter. RFC 4180 then reads everything
in between as one field. A text of several lines looks the same, so only the rest of the file can tell them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from itertools import islice

from prompttransfer.tasks.records import Dialect, Record

_SAMPLE = 1000


class JoinedRows:
    """Test whether a record is really several rows of `count` cells.

    It is if each of its lines splits into `count` cells, and

    - a cell after the opening mark or before the closing one, such as a label, occurs in the same column of another
      row, or
    - marks occur inside unquoted fields, so the file does not use them to quote.
    """

    def __init__(self, dialect: Dialect, count: int, records: Callable[[], Iterable[Record]]) -> None:
        """records: iterates over the whole file. The first thousand records are read when needed."""
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
        """Whether marks occur inside unquoted fields, and the (column, cell) pairs of rows without marks."""
        marks_are_text, usual = False, set[tuple[int, str]]()
        for record in islice(self._records(), _SAMPLE):
            if len(record.lines) == 1 and not record.problem and len(record.cells) == self._count:
                if '"' not in record.lines[0]:
                    usual.update(enumerate(record.cells))
                elif self._dialect.split(record.lines[0]) == record.cells:
                    marks_are_text = True
        return marks_are_text, usual
