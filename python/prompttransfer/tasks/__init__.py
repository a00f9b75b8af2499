"""Tasks: demo and paper data sets by name, your own tables by file name, templates, splits and metrics."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from prompttransfer.files.paths import expanded
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.settings.joins import Join
from prompttransfer.tasks.demo import DEMO_TASKS, load_demo
from prompttransfer.tasks.description import read_description
from prompttransfer.tasks.files import load_described, load_files
from prompttransfer.tasks.leakage import drop_leaks, drop_leaks_of
from prompttransfer.tasks.names import (
    TABLES,
    file_paths,
    is_dataset_folder,
    is_description,
    is_file_name,
    split_tables,
)
from prompttransfer.tasks.papers import PAPER_TASKS, load_paper
from prompttransfer.tasks.task import Task

__all__ = ["DEMO_TASKS", "PAPER_TASKS", "Task", "check_name", "drop_leaks", "drop_leaks_of", "load_task"]


def load_task(
    name_or_path: str | Path,
    *,
    train_rows: int | None = None,
    test_rows: int | None = None,
    seed: int = 42,
    progress: ProgressReporter | None = None,
    answers: Literal["digits", "words"] | None = None,
    cue: str = "",
    join: Join | Literal["auto"] = "auto",
    data_dir: str | Path | None = None,
    bad_rows: Literal["error", "skip"] = "error",
    **file_options: Any,
) -> Task:
    """Load a task by name or by file.

    A task is the name of a demo task or of a data set of the papers, a file ("reviews.csv", or "train.csv:test.csv"), a
    folder with files of its splits, or a YAML description ("reviews.yaml"). Training rows that overlap with test or
    validation rows are dropped (`drop_leaks`), then training and test rows are cut to the requested number.

    Args:
        train_rows, test_rows: largest number of rows; None: all.
        seed: seed of the splits.
        answers: answers of a named task, as digits or words; None: as in the papers, and words for demo tasks.
        cue, data_dir: as in `prompttransfer.tasks.papers.load_paper`; unused for other tasks.
        join: as in `Task`; used if a description does not set it.
        bad_rows: "error", or "skip" to omit and count invalid rows.
        file_options: options of `prompttransfer.tasks.files.load_files`; unused for named tasks. A description uses
            only `whole`.

    Raises:
        FileNotFoundError, ValueError: there is no such task (with a suggestion), or rows are invalid.
        ConnectionError: a data set of the papers cannot be downloaded from the hub.
    """
    name = str(name_or_path)
    check_name(name)
    if name in DEMO_TASKS:
        task = load_demo(name, answers=answers or "words", seed=seed, progress=progress)
    elif name in PAPER_TASKS:
        task = load_paper(
            name,
            answers=answers or "digits",
            cue=cue,
            data_dir=data_dir,
            bad_rows=bad_rows,
            seed=seed,
            progress=progress,
        )
    elif is_description(name):
        whole = file_options.get("whole", False)
        described = read_description(expanded(name))
        task = load_described(described, whole=whole, seed=seed, bad_rows=bad_rows, progress=progress)
    else:
        task = load_files(name, seed=seed, bad_rows=bad_rows, progress=progress, **file_options)
    if task.join == "auto":
        task = replace(task, join=join)
    task = drop_leaks(task)
    if task.leaked and progress is not None and name not in DEMO_TASKS:
        rows = "row that overlaps" if task.leaked == 1 else "rows that overlap"
        progress.note(f"{task.name}: left out {task.leaked} training {rows} with test or validation rows")
    return task.limit(train_rows, test_rows)


def check_name(name: str) -> None:
    """Check that a task exists, without loading it.

    Raises:
        FileNotFoundError: the name is a file that does not exist.
        ValueError: the name is neither a file nor a named task (with a suggestion), or its description is invalid.
    """
    if name in DEMO_TASKS or name in PAPER_TASKS:
        return
    if is_description(name):
        read_description(expanded(name))
        return
    groups = list(dict.fromkeys(paper.split("/")[0] for paper in PAPER_TASKS))
    path = Path(name)
    misspelt = name.split("/")[0] in groups and not path.suffix and not path.exists()  # glue/mnil
    if is_file_name(name) and not misspelt:
        for path in file_paths(name):
            if path.is_dir() and not is_dataset_folder(path):
                split_tables(path)
            elif not path.exists():
                hint = "; a colon joins a training and a test file: train.csv:test.csv" if "," in name else ""
                raise FileNotFoundError(f"task file {path} does not exist{hint}")
        return
    near = get_close_matches(name, [*DEMO_TASKS, *PAPER_TASKS], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    papers = ", ".join(f"{group}/…" for group in groups)
    raise ValueError(
        f"unknown task {name!r}; {hint}demo tasks: {', '.join(DEMO_TASKS)}; data sets of the papers: {papers}; "
        f"or name a file: {', '.join(TABLES)}, a folder of them, or a .yaml description"
    )
