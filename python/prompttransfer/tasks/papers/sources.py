"""Where the rows of a public set are: on the hub, or in a folder with a copy of it.

A copy has the layout of the hub, `<folder>/<hub id>/<config>/<split>-*.parquet`, of the hub's own conversion to
Parquet, `.../<config>/<split>/*.parquet`, or of `DatasetDict.save_to_disk`. Sets with a single config may do without
its folder or call it `data`, `default` or `plain_text`. The owner before the slash of a hub id may be left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset

from prompttransfer.files.cache import cache_folder
from prompttransfer.files.durable import file_hash
from prompttransfer.files.excerpt import listed
from prompttransfer.tasks.papers.spec import PaperTask

_CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class HubSplit:
    """A split as the hub has it. fingerprint: of its content; open: its table, memory mapped."""

    name: str
    fingerprint: str
    open: Callable[[], Dataset]


def find_split(spec: PaperTask, split: str, data_dir: Path | None) -> HubSplit:
    """A split of a set, with at least the columns that are read.

    Raises:
        FileNotFoundError: the folder has no such split.
        ConnectionError: the hub does not give it.
        ValueError: a column is missing.
    """
    return _from_hub(spec, split) if data_dir is None else _from_folder(spec, split, data_dir)


def _from_hub(spec: PaperTask, split: str) -> HubSplit:
    try:
        if spec.converted:
            files = {split: f"{spec.config}/{split}/*.parquet"}
            found = datasets.load_dataset(spec.hub, revision=_CONVERTED, data_files=files)
        else:
            found = datasets.load_dataset(spec.hub, spec.config)
        table = found[split]
    except (OSError, KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConnectionError(
            f"{spec.name}: the hub does not give split {split!r} of {spec.hub}: {reason[:300]}\n"
            f"Without a hub, put its Parquet files into <folder>/{_wanted(spec, split)} and say --data-dir <folder>"
        ) from error
    _check_columns(spec, split, table.column_names, spec.hub)
    return HubSplit(split, table._fingerprint, lambda: table)


def _wanted(spec: PaperTask, split: str) -> str:
    return f"{spec.hub}/{spec.config or 'data'}/{split}-*.parquet"


def _from_folder(spec: PaperTask, split: str, data_dir: Path) -> HubSplit:
    owned = data_dir / spec.hub
    root = next((folder for folder in (owned, data_dir / spec.hub.split("/")[1]) if folder.is_dir()), owned)
    # With several configs a table outside the folder of one could be that of another.
    folders = [root / spec.config] if spec.config else []
    if spec.config in (None, "default"):
        folders += [root / "data", root / "default", root / "plain_text", root]
    for folder in folders:
        if (folder / split / "state.json").is_file():
            files = sorted((folder / split).glob("*.arrow"))
            return HubSplit(split, _hash_of(files), partial(_saved, spec, split, folder / split))
        patterns = (f"{split}-*.parquet", f"{split}.parquet", f"{split}/*.parquet")
        files = next(filter(None, (sorted(folder.glob(pattern)) for pattern in patterns)), [])
        if files:
            return HubSplit(split, _hash_of(files), partial(_parquet, spec, split, files))
    there = listed(sorted(str(path.relative_to(data_dir)) for path in data_dir.rglob("*") if path.is_file()), str)
    raise FileNotFoundError(f"{spec.name}: {data_dir} has no {_wanted(spec, split)}; it holds {there or 'no files'}")


def _parquet(spec: PaperTask, split: str, files: list[Path]) -> Dataset:
    for file in files:
        try:
            _check_columns(spec, split, pq.read_schema(file).names, str(file))
        except pa.ArrowInvalid as error:
            raise ValueError(f"{spec.name}: {file} is not a Parquet file: {error}") from error
    cache = str(cache_folder() / "datasets")
    return Dataset.from_parquet([str(file) for file in files], columns=list(spec.columns), cache_dir=cache)


def _saved(spec: PaperTask, split: str, folder: Path) -> Dataset:
    table = Dataset.load_from_disk(str(folder))
    _check_columns(spec, split, table.column_names, str(folder))
    return table


def _check_columns(spec: PaperTask, split: str, columns: list[str], place: str) -> None:
    for column in spec.columns:
        if column not in columns:
            raise ValueError(
                f"{spec.name}, split {split!r}: {place} has no column {column!r}, only {', '.join(map(repr, columns))}"
            )


def _hash_of(files: list[Path]) -> str:
    """Hash of the content of files."""
    stats = [(file, file.stat()) for file in files]
    digests = [_file_hash(file, stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


@lru_cache(maxsize=256)
def _file_hash(file: Path, size: int, changed: int) -> str:
    """The sets of MRQA share their files: read once in a process, as long as they stay the same."""
    return file_hash(file)
