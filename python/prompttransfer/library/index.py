"""Database index of a library's files, so that unchanged files are not read again.

It lists, selects and compares a million prompts without having all of them in memory. You may delete the index at any
time; it is rebuilt from the files.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open

from prompttransfer.files.json_file import read_json
from prompttransfer.interchange import Card
from prompttransfer.interchange.files import TENSOR, UNREADABLE

NAME = "index.sqlite"  # another table needs another name
# Names in safetensors.
DTYPES = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}
_CHUNK = 1024  # files per commit
_PROMPTS = """
CREATE TABLE IF NOT EXISTS prompts(id INTEGER PRIMARY KEY, name TEXT UNIQUE, size INT, mtime INT, card_size INT,
card_mtime INT, length INT, width INT, dtype TEXT, offset INT, model TEXT, start TEXT, card TEXT)
"""
_FILES = """
CREATE TEMP TABLE files(name TEXT, kind TEXT, size INT, mtime INT, PRIMARY KEY(name, kind)) WITHOUT ROWID
"""
_CHANGED = """
SELECT file.name, file.size, file.mtime, card.size, card.mtime FROM temp.files file
LEFT JOIN temp.files card ON card.name = file.name AND card.kind = '.json'
LEFT JOIN prompts known ON known.name = file.name
WHERE file.kind = '.safetensors' AND file.name > ? AND (
    known.name IS NULL OR known.size IS NOT file.size OR known.mtime IS NOT file.mtime
    OR known.card_size IS NOT card.size OR known.card_mtime IS NOT card.mtime
) ORDER BY file.name LIMIT ?
"""


@dataclass(frozen=True)
class Entry:
    """A stored prompt: its card, and the length and width of its matrix."""

    name: str
    path: Path
    card: Card
    shape: tuple[int, int]


class Stored(NamedTuple):
    """Location of a prompt's matrix in its file, and the file's size and time. shares: whether its start is the
    requested one."""

    id: int
    name: str
    size: int
    mtime: int
    length: int
    width: int
    dtype: str
    offset: int
    shares: bool


class Index(Mapping[str, Entry]):
    """The prompts of a folder, by name. Empty until `update` is called."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._database = _connected("")

    def __len__(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM prompts").fetchone()[0])

    def __iter__(self) -> Iterator[str]:
        return (name for (name,) in self._database.execute("SELECT name FROM prompts ORDER BY name"))

    def __getitem__(self, name: str) -> Entry:
        return self._entry("name", name)

    def by_id(self, number: int) -> Entry:
        """The entry with the id of a `Stored`."""
        return self._entry("id", number)

    def _entry(self, column: str, value: str | int) -> Entry:
        query = f"SELECT name, length, width, card FROM prompts WHERE {column} = ?"
        row = self._database.execute(query, (value,)).fetchone()
        if row is None:
            raise KeyError(value)
        name, length, width, card = row
        path = self._folder / f"{name}.safetensors"
        return Entry(name, path, Card.checked(json.loads(card), path), (length, width))

    def comparable(self, length: int, width: int, *, any_length: bool, model: str, start: str) -> Iterator[Stored]:
        """Prompts of a shape that belong to the model or to an unknown one. Those with the same start come first, then
        sorted by length and type.

        Args:
            any_length: only the width must match. Prompts of another length do not share the start.
            model: fingerprint of the model; "": any model.
            start: hash of P_init; "": none.
        """
        query = (
            "SELECT id, name, size, mtime, length, width, dtype, offset,"
            " start = :start AND :start <> '' AND length = :long AS shares "
            "FROM prompts WHERE width = :width AND (:any OR length = :long) "
            "AND (:model = '' OR model IN ('', :model)) ORDER BY shares DESC, length, dtype, id"
        )
        parameters = {"long": length, "width": width, "any": any_length, "model": model, "start": start}
        return (Stored(*row) for row in self._database.execute(query, parameters))

    def shares_start(self, start: str) -> bool:
        """Whether any prompt has a start with this hash."""
        return self._database.execute("SELECT 1 FROM prompts WHERE start = ? LIMIT 1", (start,)).fetchone() is not None

    def update(self) -> list[str]:
        """Bring the index up to date; return a message for each file that is skipped, and read again next time."""
        path = self._folder / NAME
        try:
            return self._follow(_connected(path))
        except sqlite3.OperationalError:
            pass  # a read-only library, or a full disk: use the index as it is
        except sqlite3.DatabaseError:  # damaged, or not a database
            with suppress(sqlite3.OperationalError, OSError):
                path.unlink()
                return self._follow(_connected(path))
        try:
            return self._follow(_copied(path))
        except sqlite3.DatabaseError:
            return self._follow(_connected(""))

    def _follow(self, database: sqlite3.Connection) -> list[str]:
        self._database, problems = database, list[str]()
        with database:
            database.execute(_PROMPTS)
            database.execute(_FILES)
            database.executemany("INSERT INTO temp.files VALUES (?, ?, ?, ?)", self._listing(problems))
            there = "SELECT name FROM temp.files WHERE kind = '.safetensors'"
            database.execute(f"DELETE FROM prompts WHERE name NOT IN ({there})")
        last = ""
        while changed := database.execute(_CHANGED, (last, _CHUNK)).fetchall():
            with database:
                for name, *state in changed:
                    self._describe(name, state, problems)
            last = changed[-1][0]
        return problems

    def _listing(self, problems: list[str]) -> Iterator[tuple[str, str, int, int]]:
        """Stem, suffix, size and time of the prompts and JSON files of the folder."""
        with os.scandir(self._folder) as files:
            for file in files:
                name, kind = os.path.splitext(file.name)
                if kind not in (".safetensors", ".json") or name.startswith(".") or not file.is_file():
                    continue
                try:
                    name.encode()
                    stat = file.stat()
                except UnicodeEncodeError:
                    problems.append(f"{os.fsencode(file.path)!r}: want a name in UTF-8")
                except FileNotFoundError:
                    continue  # deleted meanwhile
                else:
                    yield name, kind, stat.st_size, stat.st_mtime_ns

    def _describe(self, name: str, state: list[int | None], problems: list[str]) -> None:
        """Replace the index entry of a new or changed prompt."""
        database, path = self._database, self._folder / f"{name}.safetensors"
        database.execute("DELETE FROM prompts WHERE name = ?", (name,))
        try:
            place, card = described(path, None if state[2] is None else path.with_suffix(".json"))
        except ValueError as error:
            problems.append(str(error))
            return
        known = json.dumps(card.model_dump(mode="json", exclude_defaults=True))
        facts = (None, name, *state, *place, card.model_fingerprint, card.init_hash, known)
        database.execute(f"INSERT INTO prompts VALUES ({', '.join('?' * len(facts))})", facts)


def described(path: Path, card: Path | None) -> tuple[tuple[int, int, str, int], Card]:
    """Length, width, type and offset of the matrix in a prompt file, and the card. Reads only the file's header."""
    try:
        with safe_open(path, framework="pt"), open(path, "rb") as file:  # safe_open checks the file
            head = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(head))
    except UNREADABLE as error:
        raise ValueError(f"{path}: not a readable safetensors file, or truncated ({error})") from error
    matrix = header.get(TENSOR, {"shape": [], "dtype": ""})
    shape, dtype = matrix["shape"], matrix["dtype"]
    if len(shape) != 2 or 0 in shape or dtype not in DTYPES:
        got = f"{tuple(shape)} of type {dtype}" if shape else "none"
        raise ValueError(f"{path}: want a tensor {TENSOR!r} of shape (L, H) and type {', '.join(DTYPES)}, got {got}")
    place = (shape[0], shape[1], dtype, 8 + head + matrix["data_offsets"][0])
    checked = Card.of(header.get("__metadata__", {}), path)
    if card is not None:
        try:
            content = read_json(card)
        except OSError as error:
            raise ValueError(f"{card}: not readable ({error})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{card}: got a {type(content).__name__}, want the fields of a card")
        checked = Card.checked(content, card)
    return place, checked


def _connected(path: Path | str, **more: Any) -> sqlite3.Connection:
    """Open a database. An empty path opens a private one in a temporary file that ends with the connection."""
    connection: sqlite3.Connection = sqlite3.connect(path, timeout=60, check_same_thread=False, **more)
    connection.execute("PRAGMA trusted_schema = OFF")  # the schema of an untrusted library must not run functions
    return connection


def _copied(path: Path) -> sqlite3.Connection:
    """Copy a database file to a private database; empty if the file cannot be read."""
    private = _connected("")
    with suppress(sqlite3.Error), closing(_connected(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as shared:
        shared.backup(private)
    return private
