"""Records of a delimited text file, as the csv module reads them in its strict mode.

RFC 4180: quotation marks may enclose a field, which may then hold delimiters, line breaks and doubled marks. Marks
inside a field that is not enclosed are text. Marks that break these rules are a problem of their record.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

ADVICE = r"""(in a YAML description, quotes: false reads quotation marks as text; escape: '\' reads \" as a mark)"""
UNCLOSED = f"a quotation mark is never closed {ADVICE}"
FOLLOWED = f"a quotation mark that closes a field is followed by text {ADVICE}"
JOINED = f"a quotation mark encloses the rows that follow {ADVICE}"

csv.field_size_limit(2**31 - 1)  # of the whole process: a cell may hold a document
# In place of an escaped mark and of an escaped escape character while the csv module reads: no text holds these.
_MARK, _ESCAPE = "\ufdd0", "\ufdd1"


@dataclass(frozen=True)
class Record:
    """Cells, the lines that they stand in, and what is wrong with the quotation marks; then there are no cells."""

    cells: list[str]
    lines: list[str]
    problem: str = ""


class Lines:
    """Lines of a file, with their ends. `taken` holds those of the last record, which can be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back: list[str] = []
        self.taken: list[str] = []

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        self.taken.append(self._back.pop() if self._back else next(self._lines))
        return self.taken[-1]

    def put_back(self, lines: list[str]) -> None:
        """The next lines to be read, in order."""
        self._back.extend(reversed(lines))


@dataclass(frozen=True)
class Dialect:
    r"""How lines become cells.

    Attributes:
        quotes: quotation marks enclose fields; False: they are text.
        escape: a character that takes the meaning from a mark behind it, such as the backslash of \"; without quotes
            also from a delimiter or a line break. Before any other character it is text.
        spaced: a delimiter is followed by spaces that are no part of the cell.
    """

    delimiter: str
    quotes: bool = True
    escape: str | None = None
    spaced: bool = False

    def records(self, lines: Lines) -> Iterator[Record]:
        """All records that are not blank; lines that are put back meanwhile are read next."""
        reader = csv.reader(
            map(self._guarded, lines) if self.escape else lines,
            delimiter=self.delimiter,
            quoting=csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE,
            escapechar=None if self.quotes else self.escape,
            skipinitialspace=self.spaced,
            strict=self.quotes,
        )
        written = str.maketrans({_MARK: '"', _ESCAPE: self.escape})
        while True:
            lines.taken = []
            try:
                cells = next(reader, None)
            except csv.Error as error:
                problem = str(error)  # Python 3.10 refuses NUL characters
                if "expected after" in problem or "end of data" in problem:
                    problem = FOLLOWED if "expected after" in problem and len(lines.taken) == 1 else UNCLOSED
                yield Record([], lines.taken, problem)
                continue
            if cells is None:
                return
            if len(cells) > 1 or any(cell.strip() for cell in cells):
                yield Record([cell.translate(written) for cell in cells] if self.escape else cells, lines.taken)

    def split(self, line: str) -> list[str]:
        """Cells of one line where no character but the delimiter has a meaning."""
        cells = line.rstrip("\r\n").split(self.delimiter)
        return [cell.lstrip(" ") for cell in cells] if self.spaced else cells

    def _guarded(self, line: str) -> str:
        """The line with its escapes as the csv module takes them: it would drop an escape character that is text."""
        escape = str(self.escape)
        if self.quotes:
            marks = {'"': _MARK, escape: _ESCAPE}
            return re.sub(f'{re.escape(escape)}(["{re.escape(escape)}])', lambda match: marks[match[1]], line)
        special = f'\r\n|["\r\n{re.escape(escape + self.delimiter)}]'
        return re.sub(
            f"{re.escape(escape)}({special})?",
            lambda match: "".join(escape + character for character in match[1] or escape),
            line,
        )
