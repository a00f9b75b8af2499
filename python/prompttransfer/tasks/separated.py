"""Rows of CSV and TSV files, as people and programs write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path

from prompttransfer.settings.reading import Reading
from prompttransfer.tasks.records import ADVICE, JOINED, Dialect, Lines, Record
from prompttransfer.tasks.tables import Row, check_columns, opened

_DELIMITERS = (",", "\t", ";", "|")
_NO_HEADING = "; if the first line is a row, or the delimiter is wrong, set heading or delimiter there"
_SAMPLED = 1000  # records that show how a file uses quotation marks
_SEEN = 20  # lines that determine the delimiter of a file without a header
_DECLARED = re.compile(r'"?sep=([^\w"\r\n])"?[\r\n]*', re.IGNORECASE)

Records = Callable[[Dialect], Iterator[Record]]
Sample = tuple[bool, set[tuple[int, str]]]


def separated_rows(path: Path, columns: Sequence[str], reading: Reading, usual: str) -> Iterator[Row]:
    """Rows of a CSV or TSV file. usual: the delimiter that its suffix implies."""

    def records(dialect: Dialect) -> Iterator[Record]:
        """All records of the file, from its start."""
        with _lines(path, reading.encoding) as (_, lines):
            yield from dialect.records(lines)

    heading = reading.heading
    with _lines(path, reading.encoding) as (declared, _):
        delimiter = reading.delimiter or declared
    dialect = Dialect(delimiter or usual, reading.quotes, reading.escape)
    if delimiter is None and heading:
        dialect = _dialect_by_rows(dialect, records, len(heading), path)
    elif delimiter is None:
        dialect = _dialect_by_heading(dialect, records, columns)
    # If the names in the header have a space before them, so does every cell, and quotation marks come after it.
    dialect = replace(dialect, spaced=any(cell.startswith(" ") for cell in _first(dialect, records).cells[1:]))
    first = _first(dialect, records)
    if first.problem and not heading:
        raise ValueError(f"{path}, heading: {first.problem}")
    names = heading or _names(first)
    check_columns(path, columns, names, "" if heading else _NO_HEADING)
    sample = cache(lambda: _sample(dialect, records, len(names)))
    number = 0 if heading else -1  # the header is not a row
    with _lines(path, reading.encoding) as (_, lines):
        for record in dialect.records(lines):
            number += 1
            place = f"{path}, row {number}" if number else f"{path}, heading"
            problem = record.problem or (JOINED if _is_joined(dialect, record, len(names), sample) else "")
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
    """The delimiter declared by a first line `sep=;`, as in files for Excel, and the lines after it."""
    with opened(path, encoding) as file:
        lines = Lines(file)
        first = next(lines, "")
        declaration = _DECLARED.fullmatch(first)
        if not declaration:
            lines.put_back([first])
        yield declaration[1] if declaration else None, lines


def _first(dialect: Dialect, records: Records) -> Record:
    return next(records(dialect), Record([], []))


def _names(heading: Record) -> tuple[str, ...]:
    """Names of the columns. If the header has a problem, the whole line is one name."""
    return tuple(name.strip() for name in (heading.lines[:1] if heading.problem else heading.cells))


def _dialect_by_heading(dialect: Dialect, records: Records, columns: Sequence[str]) -> Dialect:
    """If the usual delimiter gives a single column, try the others. Prefer one that gives the needed columns, then the
    one that gives the most, so that an error lists the columns of the file."""
    names = {dialect: _names(_first(dialect, records))}
    if len(names[dialect]) > 1 or set(columns) <= set(names[dialect]):
        return dialect
    for other in (replace(dialect, delimiter=delimiter) for delimiter in _DELIMITERS):
        names[other] = _names(_first(other, records))
        if set(columns) <= set(names[other]):
            return other
    return max(names, key=lambda one: len(names[one]))


def _dialect_by_rows(dialect: Dialect, records: Records, count: int, path: Path) -> Dialect:
    """The delimiter that splits every valid row into `count` cells. Raises ValueError if several do."""

    def fits(one: Dialect) -> bool:
        sizes = {len(record.cells) for record in islice(records(one), _SEEN) if not record.problem}
        return sizes == {count}

    dialects = dict.fromkeys((dialect, *(replace(dialect, delimiter=other) for other in _DELIMITERS)))
    fitting = [one for one in dialects if fits(one)]
    if len(fitting) > 1 and count > 1:
        shown = ", ".join(repr(one.delimiter) for one in fitting)
        raise ValueError(f"{path}: {shown} all make {count} columns; set the delimiter in its YAML description")
    return fitting[0] if fitting else dialect


def _is_joined(dialect: Dialect, record: Record, count: int, sample: Callable[[], Sample]) -> bool:
    """Whether a record is really several rows of `count` cells.

    A mark at the start of a text may be matched by one many rows below, before a delimiter. RFC 4180 then reads
    everything in between as one field. A text of several lines looks the same, so only the rest of the file can tell
    them apart. Rows were joined if each line splits into `count` cells, and

    - a cell after the opening mark or before the closing one, such as a label, occurs in the same column of another
      row, or
    - marks occur inside unquoted fields, so the file does not use them to quote.
    """
    if len(record.lines) == 1 or count == 1 or not dialect.quotes:
        return False
    rows = [dialect.split(line) for line in record.lines]
    if any(len(row) != count for row in rows):
        return False
    marks_are_text, usual = sample()
    opening = max((place for place, cell in enumerate(rows[0]) if cell.startswith('"')), default=count)
    closing = next((place for place, cell in enumerate(rows[-1]) if cell.rstrip().endswith('"')), 0)
    outside = [*enumerate(rows[0][opening + 1 :], opening + 1), *enumerate(rows[-1][:closing])]
    return marks_are_text or any((place, cell) in usual for place, cell in outside if cell)


def _sample(dialect: Dialect, records: Records, count: int) -> Sample:
    """Whether marks occur inside unquoted fields, and the (column, cell) pairs of rows without marks."""
    marks_are_text, usual = False, set[tuple[int, str]]()
    for record in islice(records(dialect), _SAMPLED):
        if len(record.lines) == 1 and not record.problem and len(record.cells) == count:
            if '"' not in record.lines[0]:
                usual.update(enumerate(record.cells))
            elif dialect.split(record.lines[0]) == record.cells:
                marks_are_text = True
    return marks_are_text, usual


def _next_row_is_known(dialect: Dialect, record: Record, lines: Lines, count: int) -> bool:
    """After an invalid record, put back all its lines but the first, if the next row certainly begins there.

    This is so if the first line and the one after it each split into `count` cells, or if the file ends.
    """
    behind = record.lines[1:] or list(islice(lines, 1))
    if behind and not all(len(dialect.split(line)) == count for line in (record.lines[0], behind[0])):
        return False
    lines.put_back(behind)
    return True
