"""Tasks: demo data by name, tables of one's own by file name, templates, splits, metrics."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from prompttransfer.tasks.demo import DEMO_TASKS, load_demo
from prompttransfer.tasks.files import load_files
from prompttransfer.tasks.leakage import drop_leaks
from prompttransfer.tasks.names import file_paths, is_file_name
from prompttransfer.tasks.task import Task

__all__ = ["DEMO_TASKS", "Task", "check_name", "drop_leaks", "load_task"]


def load_task(
    name_or_path: str | Path,
    *,
    train_rows: int | None = None,
    test_rows: int | None = None,
    seed: int = 42,
    progress: Any = None,
    **file_options: Any,
) -> Task:
    """A task by demo name, or by file: "reviews.csv", or "train.csv:test.csv".

    Training rows that overlap with test or validation rows are dropped (`drop_leaks`), then training and test rows are
    cut to the asked number.

    Args:
        train_rows, test_rows: at most so many rows; None: all.
        seed: of the splits.
        file_options: of `prompttransfer.tasks.files.load_files`; a demo task does without them.

    Raises:
        FileNotFoundError, ValueError: no such task (with a suggestion), or bad rows in a file.
    """
    name = str(name_or_path)
    check_name(name)
    if name in DEMO_TASKS:
        task = load_demo(name, seed=seed, progress=progress)
    else:
        task = load_files(name, seed=seed, **file_options)
    task = drop_leaks(task)
    if task.leaked and progress is not None and name not in DEMO_TASKS:
        progress.note(f"{task.name}: {task.leaked} training rows are left out, as they overlap with others")
    return task.limit(train_rows, test_rows)


def check_name(name: str) -> None:
    """Check, before anything is loaded, that a task of that name exists.

    Raises:
        FileNotFoundError: it names a file that is not there.
        ValueError: it is neither a file nor a demo task; with a suggestion.
    """
    if name in DEMO_TASKS:
        return
    if is_file_name(name):
        for path in file_paths(name):
            if not path.is_file():
                hint = "; a colon joins a training and a test file: train.csv:test.csv" if "," in name else ""
                raise FileNotFoundError(f"task file {path} does not exist{hint}")
        return
    near = get_close_matches(name, DEMO_TASKS, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(
        f"unknown task {name!r}; {hint}demo tasks: {', '.join(DEMO_TASKS)}; or name a .csv, .tsv or .jsonl file"
    )
