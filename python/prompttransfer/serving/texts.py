"""Texts to answer, one after the other: from arguments, lines or tables.

Nothing is left out, so that the answers have the order of the texts. A text that cannot be answered has a problem.
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
    """A text to answer, by its fields; None: a missing field.

    row: the fields, if they can be answered.
    problem: the reason if they cannot; empty for a blank line.
    """

    fields: Mapping[str, str | None]
    row: Mapping[str, str] | None = None
    problem: str = ""


def asked_texts(named_texts: Iterable[str], card: Card) -> Iterator[Asked]:
    """Texts given one by one."""
    for number, text in enumerate(named_texts, start=1):
        one = _asked(text, f"text {number}", fields_of(card.template))
        if one.row is None:
            raise ValueError(one.problem or f"text {number} is empty; give a text to answer")
        yield one


def asked_lines(file: Path | None, card: Card, encoding: str = "utf-8") -> Iterator[Asked]:
    """The lines of a file or of standard input, one text each."""
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
        content = parse_json(text)
    except ValueError:
        return Asked(nothing, problem=f"{place}: a text has several fields; want a JSON object such as {wanted}")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), str) for name in fields):
        return Asked(nothing, problem=f"{place}: got {cut(text)}, want {wanted}")
    try:
        row = {name: texts.check_text(content[name], f"{place}, {name}") for name in fields}
    except ValueError as error:
        return Asked(nothing, problem=str(error))
    return Asked(row, row)


def asked_rows(
    file: Path,
    card: Card,
    *,
    overrides: Mapping[str, Any],
    text_column: str | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Asked]:
    """Rows of a table, or of the tables of a YAML description: its test rows if it has any, else its training rows.

    Args:
        overrides: settings of `Reading` that override those of the description, or of the training table.
        text_column: the column of the only field.
        note: called with a line of text if the table is read differently from the training table.
    """
    fields = fields_of(card.template)
    if is_description(str(file)):
        described = read_description(file)
        files, known, reading = described.test or described.train, described.fields, described.reading
    else:
        files, known, reading = (file,), card.columns, card.reading
    columns = {name: text_column or known.get(name, name) for name in fields}
    for path in files:
        own = Reading(**{**dict(reading), **overrides})
        remembered = {"encoding", "heading"} - overrides.keys() if reading is card.reading else set()
        if "encoding" in remembered:
            own = _reading_of_file(path, own, note)
        rows = read_rows(path, tuple(columns.values()), **dict(own))
        if "heading" in remembered and own.heading:
            rows = _without_heading(rows, own.heading, note)
        yield from (_answerable(row, columns) for row in rows)


def _answerable(row: Row, columns: Mapping[str, str]) -> Asked:
    cells, problem = dict[str, str](), ""
    for name, column in columns.items():
        try:
            cells[name] = row.read(column, text_of)
        except Misfit as error:
            problem = problem or str(error)
    if problem:
        return Asked({name: cells.get(name) for name in columns}, problem=problem)
    return Asked(cells, cells)


def _reading_of_file(path: Path, reading: Reading, note: Callable[[str], None]) -> Reading:
    """Use the training table's encoding, unless the file is clearly UTF-8, whose letters it would decode wrongly."""
    utf8 = Reading().encoding
    if reading.encoding == utf8 or not _is_plainly_utf8(path, reading.encoding):
        return reading
    note(f"note: {path} is read as UTF-8, which it is; the training table was {reading.encoding}")
    return reading.model_copy(update={"encoding": utf8})


def _is_plainly_utf8(path: Path, other: str) -> bool:
    """Whether a file is UTF-8 and would differ in another encoding."""
    beyond = "a".encode(other) != b"a"  # UTF-16 and similar encodings, in which ASCII letters differ too
    try:
        with opened(path, Reading().encoding) as file:
            while text := file.read(1 << 18):
                if "\0" in text:
                    return False
                beyond = beyond or not text.isascii()
    except (OSError, ValueError):  # reported when the rows are read
        return False
    return beyond


def _without_heading(rows: Iterator[Row], heading: Sequence[str], note: Callable[[str], None]) -> Iterator[Row]:
    """Skip a first row with the names of the columns. The training table had no header, but this one may have one."""
    for number, row in enumerate(rows):
        if number == 0 and [str(cell).strip() for cell in row.cells.values()] == list(heading):
            note(f"note: {row.place} has the names of the columns and is skipped")
        else:
            yield row


def asked(
    card: Card,
    named_texts: Sequence[str] | None,
    file: Path | None,
    *,
    text_column: str | None = None,
    reading: Mapping[str, Any] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Iterator[Asked]:
    """Texts from one of three sources: one by one, from a file, or from standard input."""
    reading, fields = reading or {}, fields_of(card.template)
    if named_texts and file:
        raise ValueError(f"got texts and --file {file}, want one of them")
    if text_column and len(fields) > 1:
        raise ValueError(f"--text-column names one column, but a text has the fields {', '.join(fields)}")
    if file is not None and file.suffix.lower() != ".txt":  # a table; a .txt file has one text per line
        return asked_rows(expanded(file), card, overrides=reading, text_column=text_column, note=note)
    stray = reading.keys() - (set() if named_texts else {"encoding"})
    if stray:
        raise ValueError(f"--{sorted(stray)[0]}: got it without a table to read; want --file")
    return asked_texts(named_texts, card) if named_texts else asked_lines(file, card, **reading)
