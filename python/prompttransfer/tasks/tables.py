"""Rows of a table of one's own, one after the other: CSV, TSV, JSON Lines, a JSON array, each also packed with gzip.

Parquet, Arrow and folders of the `datasets` library are read by `arrow_tables`. A table is never held in memory.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from prompttransfer.json_file import parse_json
from prompttransfer.tasks.names import PACKED, TABLES, is_dataset_folder, table_suffix

# A text field may be a whole document; the csv module stops at 128 KiB unless it is told otherwise.
_LONGEST_FIELD = min(sys.maxsize, 2**31 - 1)
_DELIMITERS = (",", "\t", ";", "|")
_CHUNK = 1 << 18
_ARRAY, _BETWEEN = re.compile(r"\s*\["), re.compile(r"[\s,]*")


@dataclass(frozen=True)
class Row:
    """One row: where it stands ("reviews.csv, row 7"), its cells, or why it cannot be read."""

    place: str
    cells: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_rows(
    path: Path, columns: Sequence[str], *, encoding: str = "utf-8", quotes: bool = True, split: str = "train"
) -> Iterator[Row]:
    """The rows of a table; columns that were not asked for may be missing from them.

    Args:
        columns: columns that are needed ("a.b": field b of the struct a).
        encoding: of text files; a mark at the start of a UTF-8 file is no part of it.
        quotes: whether quotation marks enclose fields of a CSV or TSV file; False: they are text.
        split: which part of a folder of the `datasets` library that has several.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not what its name says, or does not have the columns.
    """
    if path.is_dir() and is_dataset_folder(path):
        from prompttransfer.tasks.arrow_tables import folder_rows

        return folder_rows(path, columns, split)
    if path.is_dir():
        raise ValueError(f"{path}: a folder, but not one of the datasets library (save_to_disk); name the files in it")
    if not path.is_file():
        raise FileNotFoundError(f"task file {path} does not exist")
    suffix = table_suffix(path)
    if not suffix:
        wanted = ", ".join((*TABLES, *PACKED))
        raise ValueError(f"{path}: got a {path.suffix or 'nameless'} file, want one of {wanted}")
    if suffix in (".parquet", ".arrow", ".feather"):
        from prompttransfer.tasks.arrow_tables import file_rows

        return file_rows(path, columns)
    if suffix.startswith((".csv", ".tsv")):
        return _separated(path, columns, encoding, quotes, "\t" if suffix.startswith(".tsv") else ",")
    return (_json_objects if suffix.startswith(".json") and not suffix.startswith(".jsonl") else _json_lines)(
        path, encoding
    )


def check_columns(path: Path, columns: Sequence[str], known: Sequence[str]) -> None:
    """Check that a table with a heading has the columns, each once; for "a.b", that there is a column "a".

    Raises:
        ValueError: one is missing or stands twice; with a suggestion.
    """
    for column in columns:
        starts = [name for name in known if column == name or column.startswith(f"{name}.")]
        if not starts:
            near = get_close_matches(column, known, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{path}: there is no column {column!r}, only {', '.join(map(repr, known)) or 'none'}{meant} "
                "(--text-column and --label-column name others, or fields and label of a YAML description)"
            )
        if known.count(column) > 1:
            raise ValueError(f"{path}: there are {known.count(column)} columns {column!r}, want one")


@contextmanager
def _opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """A text file, unpacked where its name ends in .gz; what it is not is said with its name."""
    codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
    packed = path.suffix.lower() == ".gz"
    try:
        with (
            gzip.open(path, "rb") if packed else path.open("rb") as raw,
            io.TextIOWrapper(raw, encoding=codec, newline="") as file,
        ):
            yield file
    except UnicodeError as error:
        reason = getattr(error, "reason", error)  # a codec may also raise the bare error
        raise ValueError(f"{path}: {_not_decoded(path, encoding, packed)} ({reason})") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a gzip file, or not all of it: {error}") from error


def _not_decoded(path: Path, encoding: str, packed: bool) -> str:
    """Which line is not in the encoding, and which one it may be in."""
    with gzip.open(path, "rb") if packed else path.open("rb") as file:
        guess = "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "latin-1"
        file.seek(0)
        utf8 = codecs.lookup(encoding).name == "utf-8"
        line = next((number for number, line in enumerate(file, 1) if not _is_utf8(line)), 0) if utf8 else 0
    place = f", line {line}" if line else ""
    return f"not a {encoding.upper()} text file{place}; a YAML description may name another, such as encoding: {guess}"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _separated(path: Path, columns: Sequence[str], encoding: str, quotes: bool, delimiter: str) -> Iterator[Row]:
    delimiter, names = _heading(path, columns, encoding, quotes, delimiter)
    check_columns(path, columns, names)
    number = -1  # the heading is no row
    with _opened(path, encoding) as file:
        lines = _Lines(file)
        try:
            for cells in _cells(lines, delimiter, quotes):
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


def _heading(
    path: Path, columns: Sequence[str], encoding: str, quotes: bool, delimiter: str
) -> tuple[str, tuple[str, ...]]:
    """Delimiter and column names. Where the usual delimiter makes one column of them all, the others are tried: one
    that makes the columns that are needed, or else most columns, so that an error names those of the file."""

    def names(delimiter: str) -> tuple[str, ...]:
        with _opened(path, encoding) as file:
            return tuple(name.strip() for name in next(_cells(_Lines(file), delimiter, quotes), ()))

    usual = names(delimiter)
    if len(usual) == 1 and not set(columns) <= set(usual):
        for other in _DELIMITERS:
            if set(columns) <= set(names(other)):
                return other, names(other)
        delimiter = max((delimiter, *_DELIMITERS), key=lambda other: len(names(other)))
    return delimiter, names(delimiter)


def _cells(lines: Iterator[str], delimiter: str, quotes: bool) -> Iterator[list[str]]:
    """Cells of all lines that are not blank, the heading first."""
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE)
    return (cells for cells in reader if len(cells) > 1 or any(cell.strip() for cell in cells))


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


def _json_lines(path: Path, encoding: str) -> Iterator[Row]:
    with _opened(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _object(f"{path}, row {number}", parse_json(line))
                except ValueError as error:
                    yield Row(f"{path}, row {number}", problem=str(error))


def _json_objects(path: Path, encoding: str) -> Iterator[Row]:
    """The objects of an array, or one object after the other; only what is being read is in memory."""
    decoder = json.JSONDecoder()
    with _opened(path, encoding) as file:
        text, at, number = file.read(_CHUNK), 0, 0
        start = _ARRAY.match(text)
        closing = "]" if start else ""
        at = start.end() if start else 0
        while True:
            at = _BETWEEN.match(text, at).end()
            broken = "the end of the array is missing" if closing else ""
            if closing and text.startswith("]", at) and not text[at + 1 :].strip():
                broken = ""
            elif at < len(text):
                try:
                    item, at = decoder.raw_decode(text, at)
                except RecursionError:
                    broken = "not JSON of ours: nested too deep"
                except ValueError as error:  # also a number of thousands of digits
                    broken = f"not JSON: {error}"
                else:
                    number += 1
                    yield _object(f"{path}, row {number}", item)
                    continue
            # As much again as is there already, so that a long object is not decoded too often.
            more = file.read(max(_CHUNK, len(text) - at))
            if not more:
                if broken:
                    raise ValueError(f"{path}, row {number + 1}: {broken}")
                return
            text, at = text[at:] + more, 0


def _object(place: str, item: Any) -> Row:
    if isinstance(item, dict):
        return Row(place, item)
    return Row(place, problem=f"got {type(item).__name__}, want an object with named columns")
