"""How a task is named: by a demo name, or by files."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = (".csv", ".tsv", ".jsonl")


def is_file_name(name: str) -> bool:
    """Whether a task is named by files ("reviews.csv", "train.csv,test.csv"), not by a demo name."""
    return "/" in name or any(part.strip().lower().endswith(SUFFIXES) for part in name.split(","))


def file_paths(name: str) -> list[Path]:
    """The files of a task named by files."""
    return [Path(part.strip()).expanduser() for part in name.split(",")]
