"""Tasks: demo data by name, tables of one's own by file name, templates, splits, metrics."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from prompttransfer.tasks.demo import DEMO_TASKS, load_demo
from prompttransfer.tasks.files import is_file_name, load_files
from prompttransfer.tasks.leakage import drop_leaks
from prompttransfer.tasks.task import Task

__all__ = ["DEMO_TASKS", "Task", "drop_leaks", "load_task"]


def load_task(
    name_or_path: str | Path,
    *,
    train_rows: int | None = None,
    test_rows: int | None = None,
    seed: int = 42,
    progress: Any = None,
    **file_options: Any,
) -> Task:
    """A task by demo name, or by file: "reviews.csv", or "train.csv,test.csv".

    Training rows that overlap with test rows are dropped (`drop_leaks`), then both are cut to the asked number.

    Args:
        train_rows, test_rows: at most so many rows; None: all.
        seed: of the splits.
        file_options: of `prompttransfer.tasks.files.load_files`; a demo task does without them.

    Raises:
        ValueError: no such task (with a suggestion), or bad rows in a file.
    """
    name = str(name_or_path)
    if name in DEMO_TASKS:
        task = load_demo(name, seed=seed, progress=progress)
    elif is_file_name(name):
        task = load_files(name, seed=seed, **file_options)
    else:
        raise ValueError(unknown_task(name))
    return drop_leaks(task).limit(train_rows, test_rows)


def unknown_task(name: str) -> str:
    """What to say about a name that is neither a demo task nor a file."""
    near = get_close_matches(name, DEMO_TASKS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown task {name!r}; {hint}demo tasks: {', '.join(DEMO_TASKS)}; or name a .csv, .tsv or .jsonl file"
