"""Files and folders that are complete or absent after a crash or a power cut, and that tell when they are damaged.

A file is written beside its place, under a lock, brought to the disk (fsync) and renamed. A folder gets a list of the
SHA-256 of its files, in the format of `sha256sum`: `sha256sum -c SHA256SUMS` says the same as `check_seal`.
"""

from __future__ import annotations

import csv
import fcntl
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
_TEMPORARY = ".tmp"
_BLOCK = 1 << 20
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Damaged(ValueError):
    """What lies on the disk is not what was written there."""


@contextmanager
def replacing(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block ends well, and is gone when it does not.

    A reader sees the old file or the new one, never half; with `sync`, after a power cut as well.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _locked_beside(path)
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
        os.close(handle)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to make and fill, which gets the name `path` when the block ends well, and is gone when it does not.

    Raises:
        FileExistsError: there is something of that name already.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=".new-"))
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
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of equal keys as CSV for people's spreadsheets, which take some texts for formulas and run them.

    Such a text (it begins with =, +, -, @, a tab or a carriage return) gets an apostrophe before it, as spreadsheets
    themselves mark text; numbers stay numbers.
    """

    def harmless(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value

    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["method"])
        writer.writeheader()
        writer.writerows({name: harmless(value) for name, value in row.items()} for row in rows)


def write_record(path: Path, content: Any) -> None:
    """Write JSON with its own hash, for `read_record`."""
    write_json(path, {"sha256": _json_hash(content), "content": content})


def read_record(path: Path) -> Any:
    """The content of a file of `write_record`.

    Raises:
        FileNotFoundError: no such file.
        Damaged: it is not what was written.
    """
    try:
        record = json.loads(path.read_bytes())
        if record["sha256"] == _json_hash(record["content"]):
            return record["content"]
    except (ValueError, KeyError, TypeError):
        pass
    raise Damaged(f"{path}: not what was written there")


def seal(folder: Path, *, sync: bool = True) -> None:
    """Write the hashes of all files of a folder beside them; the last line is a comment with the hash of the others.

    Args:
        sync: bring everything to the disk, so that a power cut leaves the folder whole; else it may be found damaged.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    text = "".join(f"{file_hash(path)}  {path.relative_to(folder).as_posix()}\n" for path in files)
    if sync:
        for path in files:
            sync_file(path)
    with replacing(folder / SEAL, sync=sync) as temporary:
        temporary.write_text(f"{text}{_own_line(text)}", encoding="utf-8")


def check_seal(folder: Path) -> None:
    """Compare the files of a folder with the hashes that were written with them.

    Raises:
        Damaged: a file, or the list of the hashes, is missing or not what was written; names it.
    """
    try:
        text = (folder / SEAL).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Damaged(f"{folder / SEAL}: missing") from None
    except UnicodeDecodeError as error:
        raise Damaged(f"{folder / SEAL}: not what was written there") from error
    lines = text.splitlines(keepends=True)
    if not lines or lines.pop() != _own_line("".join(lines)):
        raise Damaged(f"{folder / SEAL}: not what was written there")
    for line in lines:
        digest, _, name = line.rstrip("\n").partition("  ")
        check_hash(folder / name, digest)


def check_hash(path: Path, digest: str) -> None:
    """Compare a file with its hash.

    Raises:
        Damaged: it is missing, or not what was written.
    """
    if not path.is_file():
        raise Damaged(f"{path}: missing")
    if file_hash(path) != digest:
        raise Damaged(f"{path}: not what was written there")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            state.update(block)
    return state.hexdigest()


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk: a rename alone does not."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_folder(path: Path) -> None:
    """Bring a folder's entries to the disk, where the file system knows how."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Delete what a killed process was writing below a folder; what a living one is writing is locked, and stays."""
    for path in folder.rglob(f".*{_TEMPORARY}"):
        with suppress(FileNotFoundError, PermissionError), path.open("r+b") as file:  # it is gone, or not ours
            if _locked(file.fileno(), fcntl.LOCK_NB):
                path.unlink()


def _locked_beside(path: Path) -> tuple[int, Path]:
    """A new file in the folder of a path, locked until its handle is closed or its process ends."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
        _locked(handle)
        if os.fstat(handle).st_nlink:  # else taken for a leftover before it was locked
            return handle, Path(name)
        os.close(handle)


def _locked(handle: int, how: int = 0) -> bool:
    """Lock an open file; False: another process has it. A file system without locks has no other."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | how)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def _own_line(text: str) -> str:
    return f"# {hashlib.sha256(text.encode()).hexdigest()}\n"


def _json_hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()
