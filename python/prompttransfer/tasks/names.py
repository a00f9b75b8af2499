"""How a task is named: by a demo name, by a file, or by a training and a test file with a colon between them."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".csv", ".tsv", ".jsonl")

# Only a colon after a suffix separates two files, so that a path may hold one of its own.
_BETWEEN_FILES = re.compile("|".join(rf"(?<={re.escape(suffix)})\s*:" for suffix in SUFFIXES), re.IGNORECASE)


def is_file_name(name: str) -> bool:
    """Whether a task is named by files ("reviews.csv", "train.csv:test.csv"), not by a demo name."""
    return "/" in name or any(path.suffix.lower() in SUFFIXES for path in file_paths(name))


def file_paths(name: str) -> list[Path]:
    """The files of a task named by files."""
    return [Path(part.strip()).expanduser() for part in _BETWEEN_FILES.split(name)]
