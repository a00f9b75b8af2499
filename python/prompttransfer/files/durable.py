"""Files and folders that are complete or absent after a crash or a power cut, with checks for damage.

A file is written next to its final path, under a lock, flushed to disk (fsync) and renamed. A folder gets a list of the
SHA-256 hashes of its files in the format of `sha256sum`, so `sha256sum -c SHA256SUMS` checks the same as `check_seal`.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SEAL = "SHA256SUMS"
TEMPORARY = ".tmp"
_BLOCK = 1 << 20
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Damaged(ValueError):
    """The content on disk differs from what was written."""


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a file to write. It replaces `path` if the block succeeds, and is deleted if it fails.

    A reader sees the old file or the new one, never a part of it; with `sync`, even after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        if sync:
            sync_file(temporary)
        os.replace(temporary, path)
        if sync:
            sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a folder to create and fill. It becomes `path`, which must not exist; if the block fails, it is deleted."""
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".new-{path.name}-"))
    try:
        yield scratch / path.name
        for file in (scratch / path.name).rglob("*"):
            if file.is_file():
                sync_file(file)
        (scratch / path.name).rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part of it."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys as CSV that is safe to open in a spreadsheet.

    Spreadsheets run texts that look like formulas (that begin with =, +, -, @, a tab or a carriage return). Such a text
    gets a leading apostrophe, which marks text in spreadsheets. Numbers stay numbers.
    """

    def harmless(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["method"])
        writer.writeheader()
        writer.writerows({name: harmless(value) for name, value in row.items()} for row in rows)


def write_record(path: Path, content: Any) -> None:
    """Write JSON together with its hash, for `read_record`."""
    write_json(path, {"sha256": _json_hash(content), "content": content})


def read_record(path: Path) -> Any:
    """Read a file written by `write_record`. Raises FileNotFoundError, or Damaged if it has changed."""
    try:
        record = json.loads(path.read_bytes())
        if record["sha256"] == _json_hash(record["content"]):
            return record["content"]
    except (ValueError, KeyError, TypeError):
        pass
    raise _changed(path)


def seal(folder: Path, *, sync: bool = True) -> None:
    """Write the hashes of all files of a folder into it. The last line is a comment with the hash of the other lines.

    Args:
        sync: flush everything to disk, so that the folder survives a power cut; if false, it may be damaged then.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    text = "".join(f"{file_hash(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    if sync:
        for path in files:
            sync_file(path)
    with replacing(folder / SEAL, sync=sync) as temporary:
        temporary.write_text(f"{text}{_own_line(text)}", encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Check the files of a folder against the hashes written by `seal`. Raises Damaged, which names the file."""
    try:
        lines = (folder / SEAL).read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    except FileNotFoundError:
        raise Damaged(f"{folder / SEAL}: missing") from None
    if not lines or lines.pop() != _own_line("".join(lines)):
        raise _changed(folder / SEAL)
    for line in lines:
        digest, _, name = line.rstrip("\n").partition("  ")
        check_hash(folder / name, digest)


def check_hash(path: Path, digest: str) -> None:
    """Check a file against its hash. Raises Damaged if it is missing or has changed."""
    if not path.is_file():
        raise Damaged(f"{path}: missing")
    if file_hash(path) != digest:
        raise _changed(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def sync_file(path: Path) -> None:
    """Flush a file's content to disk, which a rename alone does not do."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to disk, if the file system supports it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _changed(path: Path) -> Damaged:
    return Damaged(f"{path}: damaged, the content differs from what was written")


def _own_line(text: str) -> str:
    return f"# {hashlib.sha256(text.encode()).hexdigest()}\n"


def _json_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
