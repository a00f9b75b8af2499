"""Records of a delimited text file.

RFC 4180: quotation marks may enclose a field, which may then hold delimiters, line breaks and doubled marks. Marks
inside a field that is not enclosed are text. Marks that break these rules are a problem of their record, and nobody
guesses what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

ADVICE = r"""(in a YAML description, quotes: false reads quotation marks as text; escape: '\' reads \" as a mark)"""
UNCLOSED = f"a quotation mark is never closed {ADVICE}"
FOLLOWED = f"a quotation mark that closes a field is followed by text {ADVICE}"
JOINED = f"a quotation mark encloses the rows that follow {ADVICE}"


@dataclass(frozen=True)
class Record:
    """Cells, the lines that they stand in, and what is wrong with the quotation marks; then there are no cells."""

    cells: list[str]
    lines: list[str]
    problem: str = ""


class Lines:
    """Lines of a file, with their ends; lines that were read can be put back."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._back: list[str] = []

    def next(self) -> str | None:
        """The next line; None at the end."""
        return self._back.pop() if self._back else next(self._lines, None)

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
        while record := self._record(lines):
            if record.problem or len(record.cells) > 1 or any(cell.strip() for cell in record.cells):
                yield record

    def split(self, line: str) -> list[str]:
        """Cells of one line where no character but the delimiter has a meaning."""
        cells = line.rstrip("\r\n").split(self.delimiter)
        return [cell.lstrip(" ") for cell in cells] if self.spaced else cells

    def _record(self, lines: Lines) -> Record | None:
        line = lines.next()
        if line is None:
            return None
        read, cells, at = [line], list[str](), 0
        if not (self.quotes and '"' in line) and not (self.escape and self.escape in line):
            return Record(self.split(line), read)
        while True:
            at = self._start.match(line, at).end()
            enclosed = self.quotes and line.startswith('"', at)
            at += enclosed
            pattern, pieces = self._enclosed if enclosed else self._bare, list[str]()
            while True:
                end = pattern.match(line, at).end()
                pieces.append(line[at:end])
                if end < len(line) or not (enclosed or line.endswith(("\r", "\n"))):
                    break
                more = lines.next()
                if more is None and enclosed:
                    return Record([], read, UNCLOSED)
                if more is None:
                    break
                read.append(more)
                line, at = more, 0
            behind = self._behind.match(line, end + enclosed)
            if behind is None:
                return Record([], read, UNCLOSED if len(read) > 1 else FOLLOWED)
            cells.append(self._text("".join(pieces), enclosed))
            if behind[1] != self.delimiter:
                return Record(cells, read)
            at = behind.end()

    def _text(self, field: str, enclosed: bool) -> str:
        if self.escape:
            field = self._escaped.sub(lambda match: match[1] or ('"' if enclosed else match[0]), field)
        elif enclosed:
            field = field.replace('""', '"')
        return field

    @cached_property
    def _start(self) -> re.Pattern[str]:
        return re.compile(" *" if self.spaced else "")

    @cached_property
    def _enclosed(self) -> re.Pattern[str]:
        """A field behind its opening mark, up to its closing mark or the end of the line."""
        other = f'[^"{self._escape}]*'
        guarded = f'|{self._escape}["{self._escape}]?' if self.escape else ""
        return re.compile(f'{other}(?:(?:""{guarded}){other})*')

    @cached_property
    def _bare(self) -> re.Pattern[str]:
        """A field without marks around it, up to the delimiter or the end of the line."""
        if self.quotes or not self.escape:
            return re.compile(f"[^{self._delimiter}\r\n]*")
        other = f"[^{self._delimiter}{self._escape}\r\n]*"
        return re.compile(f"{other}(?:{self._escape}(?:\r\n|[\\s\\S])?{other})*")

    @cached_property
    def _behind(self) -> re.Pattern[str]:
        """What ends a field; spaces may stand before it."""
        spaces = "" if self.delimiter == " " else " *"
        return re.compile(f"{spaces}({self._delimiter}|\r\n|\r|\n|\\Z)")

    @cached_property
    def _escaped(self) -> re.Pattern[str]:
        guarded = f'["{self._escape}]' if self.quotes else f'\r\n|["{self._escape}{self._delimiter}\r\n]'
        return re.compile(f'{self._escape}({guarded})|""')

    @property
    def _delimiter(self) -> str:
        return re.escape(self.delimiter)

    @property
    def _escape(self) -> str:
        return re.escape(self.escape or "")
