"""Texts that are to be answered, one after the other: from arguments, from lines, from tables.

Nothing is left out, so that answers stand in the order of what they answer: what cannot be answered comes with its
problem.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompttransfer.files import texts
from prompttransfer.files.excerpt import cut
from prompttransfer.files.json_file import parse_json
from prompttransfer.files.paths import expanded
from prompttransfer.interchange import Card
from prompttransfer.settings.reading import Reading
from prompttransfer.tasks.cells import Misfit, text_of
from prompttransfer.tasks.description import read_description
from prompttransfer.tasks.names import is_description
from prompttransfer.tasks.tables import Row, opened, read_rows
from prompttransfer.tasks.templates import fields_of


@dataclass(frozen=True)
class Asked:
    """A text by its fields; None: a field that is not there.

    row: the fields, if they can be answered.
    problem: why they cannot; a blank line has none.
    """

    fields: Mapping[str, str | None]
    row: Mapping[str, str] | None = None
    problem: str = ""


def asked_texts(given: Iterable[str], card: Card) -> Iterator[Asked]:
    """Texts that are named one by one.

    Raises:
        ValueError: one is empty, or is not a JSON object with the fields.
    """
    for number, text in enumerate(given, start=1):
        one = _asked(text, f"text {number}", fields_of(card.template))
        if one.row is None:
            raise ValueError(one.problem or f"text {number} is empty; want what is to be answered")
        yield one


def asked_lines(file: Path | None, card: Card, encoding: str = "utf-8") -> Iterator[Asked]:
    """The lines of a file, or of standard input, a text each.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not in the encoding.
    """
    what, fields = str(file or "standard input"), fields_of(card.template)
    if file is None:
        lines = texts.input_lines(encoding)
    elif file.is_file():
        lines = _lines(file, encoding)
    else:
        raise FileNotFoundError(f"{file} does not exist")
    for number, line in enumerate(lines, start=1):
        yield _asked(line, f"{what}, line {number}", fields)


def _lines(file: Path, encoding: str) -> Iterator[str]:
    with file.open("rb") as raw:
        yield from texts.read_lines(raw, str(file), encoding)


def _asked(text: str, place: str, fields: tuple[str, ...]) -> Asked:
    """A text of one field, or a JSON object of several."""
    nothing = dict.fromkeys(fields)
    if len(fields) == 1:
        row = {fields[0]: text}
        return Asked(row, row if text.strip() else None)
    if not text.strip():
        return Asked(nothing)
    wanted = json.dumps(dict.fromkeys(fields, "…"), ensure_ascii=False)
    try:
        found = parse_json(text)
    except ValueError:
        return Asked(nothing, problem=f"{place}: a text has several fields; want a JSON object such as {wanted}")
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in fields):
        return Asked(nothing, problem=f"{place}: got {cut(text)}, want {wanted}")
    try:
        row = {name: texts.check_text(found[name], f"{place}, {name}") for name in fields}
    except ValueError as error:
        return Asked(nothing, problem=str(error))
    return Asked(row, row)


def asked_rows(
    file: Path,
    card: Card,
    *,
    given: Mapping[str, Any],
    text_column: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Asked]:
    """Rows of a table, or of the tables of a YAML description: of its test rows, if it has some.

    Args:
        given: settings of `Reading` that go before those of the description, or else of the training table.
        text_column: the column of the only field.
        note: told, in a line, where the table is not read as the training table was.

    Raises:
        FileNotFoundError, ValueError: as `read_rows` and `read_description`.
    """
    fields = fields_of(card.template)
    if is_description(str(file)):
        described = read_description(file)
        files, known, reading = described.test or described.train, described.fields, described.reading
    else:
        files, known, reading = (file,), card.columns, card.reading
    columns = {name: text_column or known.get(name, name) for name in fields}
    for path in files:
        own = Reading(**{**dict(reading), **given})
        remembered = {"encoding", "heading"} - given.keys() if reading is card.reading else set()
        if "encoding" in remembered:
            own = _told_by_file(path, own, note)
        rows = read_rows(path, tuple(columns.values()), **dict(own))
        if "heading" in remembered and own.heading:
            rows = _without_heading(rows, own.heading, note)
        yield from (_answerable(row, columns) for row in rows)


def _answerable(row: Row, columns: Mapping[str, str]) -> Asked:
    found, problem = dict[str, str](), ""
    for name, column in columns.items():
        try:
            found[name] = row.read(column, text_of)
        except Misfit as error:
            problem = problem or str(error)
    if problem:
        return Asked({name: found.get(name) for name in columns}, problem=problem)
    return Asked(found, found)


def _told_by_file(path: Path, reading: Reading, note: Callable[[str], None]) -> Reading:
    """As the training table was encoded, unless the file is plainly UTF-8: bytes that mean letters in both would be
    read as others."""
    utf8 = Reading().encoding
    if reading.encoding == utf8 or not _is_plainly_utf8(path, reading.encoding):
        return reading
    note(f"note: {path} is read as UTF-8, which it is; the training table was {reading.encoding}")
    return reading.model_copy(update={"encoding": utf8})


def _is_plainly_utf8(path: Path, other: str) -> bool:
    """Whether a file is UTF-8, and would be something else in another encoding."""
    beyond = "a".encode(other) != b"a"  # UTF-16 and the like: the letters of ASCII are others there too
    try:
        with opened(path, Reading().encoding) as file:
            while text := file.read(1 << 18):
                if "\0" in text:
                    return False
                beyond = beyond or not text.isascii()
    except (OSError, ValueError):  # told where the rows are read
        return False
    return beyond


def _without_heading(rows: Iterator[Row], heading: Sequence[str], note: Callable[[str], None]) -> Iterator[Row]:
    """The training table began with a row; this one may begin with the names of the columns."""
    for number, row in enumerate(rows):
        if number == 0 and [str(cell).strip() for cell in row.cells.values()] == list(heading):
            note(f"note: {row.place} holds the names of the columns and is passed over")
        else:
            yield row


def is_lines(file: Path) -> bool:
    """Whether a file holds a text on every line; else it is a table."""
    return file.suffix.lower() == ".txt"


def asked(
    card: Card,
    given: Sequence[str] | None,
    file: Path | None,
    *,
    text_column: str | None = None,
    reading: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Asked]:
    """Texts from wherever they are given: one by one, in a file, or on standard input.

    Raises:
        ValueError: two of them are given, or options of a table without one.
    """
    reading, fields = reading or {}, fields_of(card.template)
    if given and file:
        raise ValueError(f"got texts and --file {file}, want one of them")
    if text_column and len(fields) > 1:
        raise ValueError(f"--text-column names one column, but a text has the fields {', '.join(fields)}")
    if file is not None and not is_lines(file):
        return asked_rows(expanded(file), card, given=reading, text_column=text_column, note=note)
    stray = reading.keys() - (set() if given else {"encoding"})
    if stray:
        raise ValueError(f"--{sorted(stray)[0]}: got it without a table to read; want --file")
    return asked_texts(given, card) if given else asked_lines(file, card, **reading)
