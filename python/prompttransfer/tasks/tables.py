"""Read a table row by row, in any format. Each format has its own module.

Only .json files are held in memory.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO, TypeVar

from prompttransfer.files.excerpt import listed, meant, shown
from prompttransfer.files.file_kinds import HEAD, check_kind, kind_of
from prompttransfer.files.texts import codec_of
from prompttransfer.settings.reading import Reading
from prompttransfer.tasks.cells import Misfit, pick
from prompttransfer.tasks.names import FORMATS, PACKED, TABLES, is_dataset_folder, table_suffix

_OTHER_ENCODING = "a YAML description may name another, such as encoding"
_CHANCE = 10
Meaning = TypeVar("Meaning")
_STRAY = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class Row:
    """One row: its place ("reviews.csv, row 7"), and its cells or the reason why it cannot be read."""

    place: str
    cells: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def read(self, column: str, meaning: Callable[[Any], Meaning]) -> Meaning:
        """Convert the cell of a column with `meaning`. A Misfit names its place and column."""
        if self.problem:
            raise Misfit(f"{self.place}: {self.problem}")
        try:
            return meaning(pick(self.cells, column))
        except Misfit as error:
            raise Misfit(f"{self.place}, column {column!r}: {error}") from None


def read_rows(path: Path, columns: Sequence[str], *, split: str = "train", **reading: Any) -> Iterator[Row]:
    """The rows of a table. They may lack columns that were not requested.

    Args:
        columns: needed columns ("a.b": field b of the struct a).
        split: split to read, for a `datasets` folder with several.
        reading: fields of `Reading`, for text files.
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
    form, how = FORMATS[suffix.removesuffix(".gz")], Reading(**reading)
    if form == "Arrow":
        from prompttransfer.tasks.arrow_tables import file_rows

        return file_rows(path, columns)
    if form == "separated":
        from prompttransfer.tasks.separated import separated_rows

        return separated_rows(path, columns, how, usual="\t" if suffix.startswith(".tsv") else ",")
    from prompttransfer.tasks.json_tables import json_lines, json_objects

    return json_lines(path, how.encoding) if form == "JSON lines" else json_objects(path, columns, how.encoding)


def check_columns(path: Path, columns: Sequence[str], known: Sequence[str], hint: str = "") -> None:
    """Check that a table with a header has each column exactly once; for "a.b", that there is a column "a".

    The hint is added to the error message for a missing column.
    """
    for column in columns:
        starts = [name for name in known if column == name or column.startswith(f"{name}.")]
        if not starts:
            raise ValueError(
                f"{path}: there is no column {shown(column)}, only {listed(known) or 'none'}{meant(column, known)} "
                f"(for other columns: --text-column and --label-column, or fields and label in a YAML file{hint})"
            )
        if known.count(column) > 1:
            raise ValueError(f"{path}: there are {known.count(column)} columns {shown(column)}, want one")


@contextmanager
def opened(path: Path, encoding: str) -> Iterator[TextIO]:
    """Open a text file, decompressing .gz. Errors while reading name the file and what is wrong with it."""
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as raw:
            head = raw.read(HEAD)
            raw.seek(0)
            check_kind(head, path, codecs.lookup(encoding).name)
            codec = codec_of(head, encoding)
            with io.TextIOWrapper(raw, encoding=codec, newline="") as file:
                yield file
    except UnicodeError as error:
        reason = getattr(error, "reason", error)  # a codec may also raise a plain UnicodeError
        raise ValueError(f"{path}: {_not_decoded(path, encoding, packed)} ({reason})") from error
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        with path.open("rb") as raw:
            kind = kind_of(raw.read(HEAD))
        if kind and not kind.startswith("a gzip"):
            raise ValueError(f"{path}: not a gzip file: this is {kind}") from error
        raise ValueError(f"{path}: not a gzip file, or truncated: {error}") from error


def _not_decoded(path: Path, encoding: str, packed: bool) -> str:
    """Describe a decoding error: the whole file has another encoding, or a few bytes are damaged."""
    if codecs.lookup(encoding).name != "utf-8":
        return f"not a {encoding.upper()} text file; {_OTHER_ENCODING}: latin-1"
    with gzip.open(path, "rb") if packed else path.open("rb") as file:
        text = file.read().decode("utf-8", "surrogateescape")
    strays = [match.start() for match in _STRAY.finditer(text)]
    letters = sum(sign > "\x7f" for sign in text) - len(strays)
    start = text.rfind("\n", 0, strays[0]) + 1
    line = text.count("\n", 0, start) + 1
    # Latin-1 letters rarely form a valid UTF-8 letter by chance.
    if letters * _CHANCE >= len(strays) and letters:
        place = f"byte {len(text[start : strays[0]].encode()) + 1} (0x{ord(text[strays[0]]) - 0xDC00:02x})"
        more = f" and {len(strays) - 1} more" if len(strays) > 1 else ""
        return f"UTF-8 text that is damaged or mixed with another encoding: line {line}, {place}{more}; repair it"
    # Windows puts curly quotes and dashes where Latin-1 has no letters.
    guess = "cp1252" if any(text[stray] < "\udca0" for stray in strays) else "latin-1"
    return f"not a UTF-8 text file, line {line}; {_OTHER_ENCODING}: {guess}"
