"""A folder of tables, named after the splits of a task as data sets on the hub are."""

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
    """Tables of each split in a folder, or else in its folder `data`: test.csv, train-00000-of-00002.parquet,
    train/rows.jsonl.

    Raises:
        ValueError: no table is named after a split, or those of a split are of different kinds.
    """
    for place in (folder, folder / "data"):
        found: dict[str, list[Path]] = {}
        for path in sorted(place.iterdir()) if place.is_dir() else []:
            split = _split_of(path)
            inner = sorted(path.iterdir()) if path.is_dir() else [path]
            if split and (tables := [file for file in inner if file.is_file() and table_suffix(file)]):
                found.setdefault(split, []).extend(tables)
        for split, tables in found.items():
            kinds = sorted({table_suffix(table) for table in tables})
            if len(kinds) > 1:
                raise ValueError(
                    f"{place}: the files of split {split!r} end in {' and '.join(kinds)}; name those that are meant in "
                    "a YAML description"
                )
        if found:
            return {split: tuple(tables) for split, tables in found.items()}
    there = listed(sorted(path.name for path in folder.iterdir()), str)
    raise ValueError(
        f"{folder}: no table in this folder is named after a split (train, validation, test), and save_to_disk of the "
        f"datasets library did not write it; it holds {there or 'nothing'}; name a file, or "
        "several in a YAML description"
    )


def _split_of(path: Path) -> str | None:
    """The split whose name stands in that of a file or folder."""
    name = path.name.lower()
    places = {split: match.start() for split, words in _NAMES.items() if (match := words.search(name))}
    return min(places, key=lambda split: places[split], default=None)
