"""A folder of tables that are named after the splits of a task, as in data sets on the hub."""

from __future__ import annotations

import re
from pathlib import Path

from prompttransfer.files.excerpt import listed
from prompttransfer.tasks.names import table_suffix

# The words that the datasets library knows.
_WORDS = {
    "train": "train|training",
    "validation": "validation|valid|val|dev",
    "test": "test|testing|eval|evaluation",
}
_NAMES = {split: re.compile(rf"(?:^|[-._ ])(?:{words})(?:[-._ \d]|$)") for split, words in _WORDS.items()}


def split_tables(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Tables of each split in a folder, or in its subfolder `data`, such as test.csv, train-00000-of-00002.parquet or
    train/rows.jsonl."""
    for place in (folder, folder / "data"):
        tables_of: dict[str, list[Path]] = {}
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            split = _split_of(path)
            inner = sorted(path.iterdir()) if path.is_dir() else [path]
            if split and (tables := [file for file in inner if file.is_file() and table_suffix(file)]):
                tables_of.setdefault(split, []).extend(tables)
        for split, tables in tables_of.items():
            kinds = sorted({table_suffix(table) for table in tables})
            if len(kinds) > 1:
                raise ValueError(
                    f"{place}: the files of split {split!r} end in {' and '.join(kinds)}; list those to use in a YAML "
                    "description"
                )
        if tables_of:
            return {split: tuple(tables) for split, tables in tables_of.items()}
    there = listed(sorted(path.name for path in folder.iterdir()), str)
    raise ValueError(
        f"{folder}: no table in this folder is named after a split (train, validation, test), and the folder was not "
        f"written by save_to_disk of the datasets library; it has {there or 'no files'}; give a file, or list several "
        "in a YAML description"
    )


def _split_of(path: Path) -> str | None:
    """The split whose name occurs in the name of a file or folder."""
    name = path.name.lower()
    places = {split: match.start() for split, words in _NAMES.items() if (match := words.search(name))}
    return min(places, key=lambda split: places[split], default=None)
