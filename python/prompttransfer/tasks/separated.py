"""Rows of CSV and TSV files, as people and programs write them."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path
from typing import TextIO

from prompttransfer.tasks.tables import Row, check_columns, opened

# A text field may be a whole document; the csv module stops at 128 KiB unless it is told otherwise.
_LONGEST_FIELD = min(sys.maxsize, 2**31 - 1)
_DELIMITERS = (",", "\t", ";", "|")
_NO_HEADING = "; heading there, of a file whose first line is a row, and delimiter"
_SEEN = 20  # lines that tell the delimiter of a file without heading


@dataclass(frozen=True)
class _Form:
    """How a line becomes cells. spaced: a delimiter is followed by a space that is no part of the cell."""

    delimiter: str
    quotes: bool
    spaced: bool = False

    def cells(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Cells of all lines that are not blank, the heading first."""
        csv.field_size_limit(_LONGEST_FIELD)
        quoting = csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE
        reader = csv.reader(lines, delimiter=self.delimiter, quoting=quoting, skipinitialspace=self.spaced)
        return (cells for cells in reader if len(cells) > 1 or any(cell.strip() for cell in cells))

    def first(self, path: Path, encoding: str, count: int = 1) -> list[tuple[str, ...]]:
        """Cells of the first lines, at least one of them."""
        with opened(path, encoding) as file:
            found = [tuple(cells) for cells in islice(self.cells(_Lines(file)), count)]
        return found or [()]


def separated_rows(
    path: Path,
    columns: Sequence[str],
    encoding: str,
    quotes: bool,
    delimiter: str | None,
    usual: str,
    heading: Sequence[str],
) -> Iterator[Row]:
    """Rows of a CSV or TSV file; arguments as those of `tables.read_rows`, and the delimiter that is usual for it.

    Raises:
        ValueError: the file does not have the columns, or cannot be read.
    """
    form = _Form(delimiter or usual, quotes)
    if delimiter is None and heading:
        form = _told_by_rows(form, path, encoding, len(heading))
    elif delimiter is None:
        form = _told_by_heading(form, path, columns, encoding)
    # A space before the names of the heading is one before every cell, and quotation marks stand behind it.
    form = replace(form, spaced=any(cell.startswith(" ") for cell in form.first(path, encoding)[0][1:]))
    names = tuple(heading) or _names(form, path, encoding)
    check_columns(path, columns, names, "" if heading else _NO_HEADING)
    number = 0 if heading else -1  # the heading is no row
    with opened(path, encoding) as file:
        lines = _Lines(file)
        try:
            for cells in form.cells(lines):
                number += 1
                place = f"{path}, row {number}"
                if lines.ended:
                    yield Row(place, problem="a quotation mark is never closed (quotes: false reads them as text)")
                elif len(cells) > len(names):
                    yield Row(place, problem=f"got more fields than the {len(names)} columns")
                elif number:
                    yield Row(place, dict(zip_longest(names, cells)))
        except csv.Error as error:
            raise ValueError(f"{path}, row {number + 1}: {error}") from error


def _names(form: _Form, path: Path, encoding: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in form.first(path, encoding)[0])


def _told_by_heading(form: _Form, path: Path, columns: Sequence[str], encoding: str) -> _Form:
    """Where the usual delimiter makes one column of them all, the others are tried: one that makes the columns that are
    needed, or else most columns, so that an error names those of the file."""
    usual = _names(form, path, encoding)
    if len(usual) > 1 or set(columns) <= set(usual):
        return form
    found = {form: usual}
    for other in (replace(form, delimiter=delimiter) for delimiter in _DELIMITERS):
        found[other] = _names(other, path, encoding)
        if set(columns) <= set(found[other]):
            return other
    return max(found, key=lambda other: len(found[other]))


def _told_by_rows(form: _Form, path: Path, encoding: str, count: int) -> _Form:
    """The delimiter that makes so many cells of every row.

    Raises:
        ValueError: several do.
    """
    forms = dict.fromkeys((form, *(replace(form, delimiter=other) for other in _DELIMITERS)))
    fitting = [one for one in forms if all(len(cells) == count for cells in one.first(path, encoding, _SEEN))]
    if len(fitting) > 1 and count > 1:
        shown = ", ".join(repr(one.delimiter) for one in fitting)
        raise ValueError(f"{path}: {shown} all make {count} columns; want a delimiter in its YAML description")
    return fitting[0] if fitting else form


class _Lines:
    """Lines of a file, and whether one was asked for after the last: then a quoted field was still open."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            self.ended = True
            raise StopIteration
        return line
