"""Rows of CSV and TSV files, as people and programs write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice, zip_longest
from pathlib import Path

from prompttransfer.settings.reading import Reading
from prompttransfer.tasks.joined_rows import JoinedRows
from prompttransfer.tasks.records import ADVICE, JOINED, Dialect, Lines, Record
from prompttransfer.tasks.tables import Row, check_columns, opened

_DELIMITERS = (",", "\t", ";", "|")
_NO_HEADING = "; heading there, of a file whose first line is a row, and delimiter"
_SEEN = 20  # lines that tell the delimiter of a file without heading
_DECLARED = re.compile(r'"?sep=([^\w"\r\n])"?[\r\n]*', re.IGNORECASE)

Records = Callable[[Dialect], Iterator[Record]]


def separated_rows(path: Path, columns: Sequence[str], reading: Reading, usual: str) -> Iterator[Row]:
    """Rows of a CSV or TSV file; usual: the delimiter that its name tells.

    Raises:
        ValueError: the file does not have the columns, cannot be read, or a broken quotation mark leaves it open where
            the next row begins.
    """

    def records(dialect: Dialect) -> Iterator[Record]:
        """All records of the file, from its start."""
        with _lines(path, reading.encoding) as (_, lines):
            yield from dialect.records(lines)

    heading = reading.heading
    with _lines(path, reading.encoding) as (declared, _):
        delimiter = reading.delimiter or declared
    dialect = Dialect(delimiter or usual, reading.quotes, reading.escape)
    if delimiter is None and heading:
        dialect = _told_by_rows(dialect, records, len(heading), path)
    elif delimiter is None:
        dialect = _told_by_heading(dialect, records, columns)
    # A space before the names of the heading is one before every cell, and quotation marks stand behind it.
    dialect = replace(dialect, spaced=any(cell.startswith(" ") for cell in _first(dialect, records).cells[1:]))
    first = _first(dialect, records)
    if first.problem and not heading:
        raise ValueError(f"{path}, heading: {first.problem}")
    names = heading or _names(first)
    check_columns(path, columns, names, "" if heading else _NO_HEADING)
    joined = JoinedRows(dialect, len(names), lambda: records(dialect))
    number = 0 if heading else -1  # the heading is no row
    with _lines(path, reading.encoding) as (_, lines):
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
def _lines(path: Path, encoding: str) -> Iterator[tuple[str | None, Lines]]:
    """The delimiter that a first line `sep=;` declares, as in files for Excel, and the lines behind it."""
    with opened(path, encoding) as file:
        lines = Lines(file)
        first = next(lines, "")
        found = _DECLARED.fullmatch(first)
        if not found:
            lines.put_back([first])
        yield found[1] if found else None, lines


def _first(dialect: Dialect, records: Records) -> Record:
    return next(records(dialect), Record([], []))


def _names(heading: Record) -> tuple[str, ...]:
    """Names of the columns; the whole line is one where the heading has a problem."""
    return tuple(name.strip() for name in (heading.lines[:1] if heading.problem else heading.cells))


def _told_by_heading(dialect: Dialect, records: Records, columns: Sequence[str]) -> Dialect:
    """Where the usual delimiter makes one column of them all, the others are tried: one that makes the columns that are
    needed, or else most columns, so that an error names those of the file."""
    names = {dialect: _names(_first(dialect, records))}
    if len(names[dialect]) > 1 or set(columns) <= set(names[dialect]):
        return dialect
    for other in (replace(dialect, delimiter=delimiter) for delimiter in _DELIMITERS):
        names[other] = _names(_first(other, records))
        if set(columns) <= set(names[other]):
            return other
    return max(names, key=lambda one: len(names[one]))


def _told_by_rows(dialect: Dialect, records: Records, count: int, path: Path) -> Dialect:
    """The delimiter that makes so many cells of every row without a problem; ValueError where several do."""

    def fits(one: Dialect) -> bool:
        sizes = {len(record.cells) for record in islice(records(one), _SEEN) if not record.problem}
        return sizes == {count}

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
    behind = record.lines[1:] or list(islice(lines, 1))
    if behind and not all(len(dialect.split(line)) == count for line in (record.lines[0], behind[0])):
        return False
    lines.put_back(behind)
    return True
