"""Records of a delimited text file, read with the csv module in strict mode.

RFC 4180: quotation marks may enclose a field, which may then contain delimiters, line breaks and doubled marks. Marks
inside an unquoted field are text. Marks that break these rules are reported as a problem of their record.
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

csv.field_size_limit(2**31 - 1)  # for the whole process; a cell may hold a document
# Stand-ins for an escaped mark and an escaped escape character while the csv module reads. They occur in no text.
_MARK, _ESCAPE = "\ufdd0", "\ufdd1"


@dataclass(frozen=True)
class Record:
    """Cells of a record, its lines, and the problem with its quotation marks, if any; then there are no cells."""

    cells: list[str]
    lines: list[str]
    problem: str = ""


class Lines:
    """Lines of a file, with line endings. `consumed` has the lines of the last record, which can be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back: list[str] = []
        self.consumed: list[str] = []

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        self.consumed.append(self._back.pop() if self._back else next(self._lines))
        return self.consumed[-1]

    def put_back(self, lines: list[str]) -> None:
        """Make these the next lines to read, in this order."""
        self._back.extend(reversed(lines))


@dataclass(frozen=True)
class Dialect:
    r"""How to split lines into cells.

    Attributes:
        quotes: whether quotation marks enclose fields; if false, they are text.
        escape: a character that makes the mark after it text, such as the backslash in \". Without quotes, it also
            escapes a delimiter or a line break. Before any other character it is text itself.
        spaced: whether to ignore spaces after a delimiter.
    """

    delimiter: str
    quotes: bool = True
    escape: str | None = None
    spaced: bool = False

    def records(self, lines: Lines) -> Iterator[Record]:
        """All nonblank records. Lines that the caller puts back in between are read next."""
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
            lines.consumed = []
            try:
                cells = next(reader, None)
            except csv.Error as error:
                problem = str(error)  # Python 3.10 refuses NUL characters
                if "expected after" in problem or "end of data" in problem:
                    problem = FOLLOWED if "expected after" in problem and len(lines.consumed) == 1 else UNCLOSED
                yield Record([], lines.consumed, problem)
                continue
            if cells is None:
                return
            if len(cells) > 1 or any(cell.strip() for cell in cells):
                yield Record([cell.translate(written) for cell in cells] if self.escape else cells, lines.consumed)

    def split(self, line: str) -> list[str]:
        """Cells of one line, with no special characters but the delimiter."""
        cells = line.rstrip("\r\n").split(self.delimiter)
        return [cell.lstrip(" ") for cell in cells] if self.spaced else cells

    def _guarded(self, line: str) -> str:
        """Rewrite the escapes of a line for the csv module, which would drop an escape character that is text."""
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
