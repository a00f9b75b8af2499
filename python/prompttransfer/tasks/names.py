"""Names of tasks: a built-in one, a file, a training and a test file joined by a colon, or a YAML description."""

from __future__ import annotations

import re
from pathlib import Path

from prompttransfer.files.paths import expanded, file_stem

# Formats of task files by suffix; `tasks.tables` reads them.
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

# Only a colon after a suffix separates two files, so that a path may hold one of its own.
_BETWEEN_FILES = re.compile("|".join(rf"(?<={re.escape(suffix)})\s*:" for suffix in (*TABLES, *PACKED)), re.IGNORECASE)


def is_file_name(name: str) -> bool:
    """Whether a task is named by files ("reviews.csv", "train.csv:test.csv"), not by a built-in name."""
    if name.startswith(("/", "./", "../", "~")) or is_description(name):
        return True
    if any(table_suffix(path) for path in file_paths(name)) or (name and Path(name).is_dir()):
        return True
    return "/" in name and bool(Path(name).suffix)  # "data/reviews.xlsx" is told what files are wanted


def is_description(name: str) -> bool:
    """Whether a task is named by its YAML description."""
    return name.lower().endswith(DESCRIPTIONS)


def file_paths(name: str) -> list[Path]:
    """The files of a task named by files."""
    return [expanded(part.strip()) for part in _BETWEEN_FILES.split(name)]


def table_suffix(path: Path) -> str:
    """The ending that says how a table is written (".csv", ".csv.gz"), in lower case; "" where none is known."""
    name = path.name.lower()
    return next((suffix for suffix in (*PACKED, *TABLES) if name.endswith(suffix)), "")


def is_dataset_folder(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the `datasets` library."""
    return any((path / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def task_name(path: Path) -> str:
    """Name of a task of this file: its own, or its folder's where it is just "train"."""
    stem = path.name.split(".")[0] if table_suffix(path) in PACKED else path.stem
    stem = path.resolve().parent.name if stem.lower() == "train" else stem
    return file_stem(stem) or "task"
