"""Rendered rows on disk: written once, row by row, then memory-mapped.

The hashes of the files are stored with them and checked at every read. Damaged files are rendered again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features
from datasets.arrow_writer import ArrowWriter

from prompttransfer.files.cache import built_once, cache_folder
from prompttransfer.files.durable import file_hash
from prompttransfer.tasks.task import FEATURES, Example

# Part of every key. Raise it when rendering changes, which makes stored rows stale.
VERSION = 4
_BATCH = 1000


def rendered_folder() -> Path:
    """Folder of rendered rows. You may delete it at any time."""
    return cache_folder() / "tasks"


def content_key(files: Mapping[str, Sequence[Path]], settings: Mapping[str, Any]) -> str:
    """Hash of the bytes of the files (or of all files of a folder) of each split, and of the settings."""
    state = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True).encode())
    for split, paths in files.items():
        for path in paths:
            inner = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
            for file in inner:
                # The suffix decides how to read a file, and its path within the folder decides its role.
                name = file.relative_to(path) if path.is_dir() else file.suffix
                state.update(f"{split}:{name}:{file_hash(file)}".encode())
    return state.hexdigest()[:32]


def stored(key: str, write: Callable[[Path], Mapping[str, Any]]) -> tuple[dict[str, Dataset], dict[str, Any]]:
    """The datasets stored under a key, by name, and the facts about them.

    Args:
        write: called with a folder if nothing is stored. Writes `<name>.arrow` files to it (`row_file`) and returns
            facts as JSON data. If it raises, nothing is stored.
    """
    folder = rendered_folder() / key
    with built_once(folder, sealed=True) as work:
        if work is not None:
            facts = write(work)
            (work / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    datasets = {path.stem: Dataset.from_file(str(path)) for path in sorted(folder.glob("*.arrow"))}
    return datasets, json.loads((folder / "facts.json").read_text(encoding="utf-8"))


@contextmanager
def row_file(path: Path, features: Features = FEATURES) -> Iterator[Callable[..., None]]:
    """Open an Arrow file; yields a function that writes an example, with any extra columns. Buffers a thousand rows."""
    # An open stream, because the writer would treat some paths as addresses.
    with (
        pa.OSFile(str(path), "wb") as stream,
        ArrowWriter(features=features, stream=stream, writer_batch_size=_BATCH) as writer,
    ):
        yield lambda example, **more: writer.write(vars(example) | more)
        writer.finalize(close_stream=False)


class Reservoir:
    """A uniform random sample of at most `size` rows, drawn in one pass (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng, self._seen = size, rng, 0
        self.rows: list[Example] = []

    def show(self, row: Example) -> None:
        self._seen += 1
        if len(self.rows) < self._size:
            self.rows.append(row)
        elif (place := int(self._rng.integers(self._seen))) < self._size:
            self.rows[place] = row
