"""Names of tasks: a built-in one, a file, a training and a test file joined by a colon, or a YAML description."""

from __future__ import annotations

import re
from pathlib import Path

from prompttransfer.files.excerpt import listed
from prompttransfer.files.paths import expanded, file_stem

# Suffixes of task files; `tasks.tables` reads them.
FORMATS = {
    ".csv": "separated",
    ".tsv": "separated",
    ".jsonl": "JSON lines",
    ".ndjson": "JSON lines",
    ".json": "JSON",
    ".parquet": "Arrow",
    ".arrow": "Arrow",
    ".feather": "Arrow",
}
TABLES = tuple(FORMATS)
PACKED = (".csv.gz", ".tsv.gz", ".jsonl.gz", ".ndjson.gz", ".json.gz")
DESCRIPTIONS = (".yaml", ".yml")

# Only a colon after a suffix separates two files, so a path may contain a colon.
_BETWEEN_FILES = re.compile("|".join(rf"(?<={re.escape(suffix)})\s*:" for suffix in (*TABLES, *PACKED)), re.IGNORECASE)

# The words that the datasets library knows.
_WORDS = {
    "train": "train|training",
    "validation": "validation|valid|val|dev",
    "test": "test|testing|eval|evaluation",
}
_NAMES = {split: re.compile(rf"(?:^|[-._ ])(?:{words})(?:[-._ \d]|$)") for split, words in _WORDS.items()}


def is_file_name(name: str) -> bool:
    """Whether a task's name is files ("reviews.csv", "train.csv:test.csv"), not a built-in name."""
    if name.startswith(("/", "./", "../", "~")) or is_description(name):
        return True
    if any(table_suffix(path) for path in file_paths(name)) or (name and Path(name).is_dir()):
        return True
    return "/" in name and bool(Path(name).suffix)  # so that "data/reviews.xlsx" gets an error about file formats


def is_description(name: str) -> bool:
    """Whether a task's name is a YAML description."""
    return name.lower().endswith(DESCRIPTIONS)


def file_paths(name: str) -> list[Path]:
    """The files in a task's name."""
    return [expanded(part.strip()) for part in _BETWEEN_FILES.split(name)]


def table_suffix(path: Path) -> str:
    """Suffix that gives a table's format (".csv", ".csv.gz"), in lower case; "" if unknown."""
    name = path.name.lower()
    return next((suffix for suffix in (*PACKED, *TABLES) if name.endswith(suffix)), "")


def is_dataset_folder(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the `datasets` library."""
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def task_name(path: Path) -> str:
    """Name of a task in this file: the file's, or the folder's if the file is just "train"."""
    stem = path.name.split(".")[0] if table_suffix(path) in PACKED else path.stem
    stem = path.resolve().parent.name if stem.lower() == "train" else stem
    return file_stem(stem) or "task"


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
