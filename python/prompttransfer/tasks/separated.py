"""Rows of CSV and TSV files, as people and programs write them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path

from prompttransfer.tasks.joined_rows import JoinedRows
from prompttransfer.tasks.records import ADVICE, JOINED, Dialect, Lines, Record
from prompttransfer.tasks.tables import Row, check_columns, opened

_DELIMITERS = (",", "\t", ";", "|")
_NO_HEADING = "; heading there, of a file whose first line is a row, and delimiter"
_SEEN = 20  # lines that tell the delimiter of a file without heading
_DECLARED = re.compile(r'"?sep=([^\w"\r\n])"?[\r\n]*', re.IGNORECASE)


def separated_rows(
    path: Path,
    columns: Sequence[str],
    encoding: str,
    quotes: bool,
    escape: str | None,
    delimiter: str | None,
    usual: str,
    heading: Sequence[str],
) -> Iterator[Row]:
    """Rows of a CSV or TSV file; arguments as those of `tables.read_rows`, and the delimiter that is usual for it.

    Raises:
        ValueError: the file does not have the columns, cannot be read, or a broken quotation mark leaves it open where
            the next row begins.
    """
    delimiter = delimiter or _declared(path, encoding)
    dialect = Dialect(delimiter or usual, quotes, escape)
    if delimiter is None and heading:
        dialect = _told_by_rows(dialect, path, encoding, len(heading))
    elif delimiter is None:
        dialect = _told_by_heading(dialect, path, columns, encoding)
    first = _first(dialect, path, encoding)
    # A space before the names of the heading is one before every cell, and quotation marks stand behind it.
    dialect = replace(dialect, spaced=any(cell.startswith(" ") for cell in first.cells[1:]))
    first = _first(dialect, path, encoding)
    if first.problem and not heading:
        raise ValueError(f"{path}, heading: {first.problem}")
    names = tuple(heading) or _names(first)
    check_columns(path, columns, names, "" if heading else _NO_HEADING)
    joined = JoinedRows(dialect, len(names), lambda: _records(dialect, path, encoding))
    number = 0 if heading else -1  # the heading is no row
    with _lines(path, encoding) as lines:
        for record in dialect.records(lines):
            number += 1
            place = f"{path}, row {number}" if number else f"{path}, heading"
            problem = record.problem or (JOINED if joined(record) else "")
            if problem:
                if not (number and _next_row_is_known(dialect, record, lines, len(names))):
                    raise ValueError(f"{place}: {problem}")
                yield Row(place, problem=problem)
            elif len(record.cells) > len(names):
                advice = f" {ADVICE}" if any('"' in line for line in record.lines) else ""
                yield Row(place, problem=f"got more fields than the {len(names)} columns{advice}")
            elif number:
                yield Row(place, dict(zip_longest(names, record.cells)))


@contextmanager
def _lines(path: Path, encoding: str) -> Iterator[Lines]:
    """The lines of a file, without one that declares the delimiter."""
    with opened(path, encoding) as file:
        lines = Lines(file)
        first = lines.next()
        if first is not None and not _DECLARED.fullmatch(first):
            lines.put_back([first])
        yield lines


def _records(dialect: Dialect, path: Path, encoding: str) -> Iterator[Record]:
    """All records of a file, from its start."""
    with _lines(path, encoding) as lines:
        yield from dialect.records(lines)


def _declared(path: Path, encoding: str) -> str | None:
    """The delimiter that a first line `sep=;` declares, as in files for Excel."""
    with opened(path, encoding) as file:
        found = _DECLARED.fullmatch(file.readline())
    return found[1] if found else None


def _first(dialect: Dialect, path: Path, encoding: str) -> Record:
    return next(_records(dialect, path, encoding), Record([], []))


def _names(heading: Record) -> tuple[str, ...]:
    """Names of the columns; the whole line is one where the heading has a problem."""
    return tuple(name.strip() for name in (heading.lines[:1] if heading.problem else heading.cells))


def _told_by_heading(dialect: Dialect, path: Path, columns: Sequence[str], encoding: str) -> Dialect:
    """Where the usual delimiter makes one column of them all, the others are tried: one that makes the columns that are
    needed, or else most columns, so that an error names those of the file."""
    usual = _names(_first(dialect, path, encoding))
    if len(usual) > 1 or set(columns) <= set(usual):
        return dialect
    found = {dialect: usual}
    for other in (replace(dialect, delimiter=delimiter) for delimiter in _DELIMITERS):
        found[other] = _names(_first(other, path, encoding))
        if set(columns) <= set(found[other]):
            return other
    return max(found, key=lambda other: len(found[other]))


def _told_by_rows(dialect: Dialect, path: Path, encoding: str, count: int) -> Dialect:
    """The delimiter that makes so many cells of every row that has no problem.

    Raises:
        ValueError: several do.
    """

    def fits(one: Dialect) -> bool:
        records = islice(_records(one, path, encoding), _SEEN)
        sizes = [len(record.cells) for record in records if not record.problem]
        return bool(sizes) and all(size == count for size in sizes)

    dialects = dict.fromkeys((dialect, *(replace(dialect, delimiter=other) for other in _DELIMITERS)))
    fitting = [one for one in dialects if fits(one)]
    if len(fitting) > 1 and count > 1:
        shown = ", ".join(repr(one.delimiter) for one in fitting)
        raise ValueError(f"{path}: {shown} all make {count} columns; want a delimiter in its YAML description")
    return fitting[0] if fitting else dialect


def _next_row_is_known(dialect: Dialect, record: Record, lines: Lines, count: int) -> bool:
    """After a record with a problem, put back all its lines but the first, if the next row surely begins there.

    It does where the first line and the one behind it each make a row of `count` cells, or where the file ends.
    """
    behind = record.lines[1:]
    if not behind and (line := lines.next()) is not None:
        behind = [line]
    if behind and not all(len(dialect.split(line)) == count for line in (record.lines[0], behind[0])):
        return False
    lines.put_back(behind)
    return True
