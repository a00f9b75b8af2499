"""Tasks: demo data and the papers' data sets by name, your own tables by file name, templates, splits, metrics."""

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
from prompttransfer.tasks.folders import split_tables
from prompttransfer.tasks.leakage import drop_leaks, drop_leaks_of
from prompttransfer.tasks.names import TABLES, file_paths, is_dataset_folder, is_description, is_file_name
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
    """A task by demo name, by name of a data set of the papers, by file ("reviews.csv", or "train.csv:test.csv"), by a
    folder with files of its splits, or by its YAML description ("reviews.yaml").

    Training rows that overlap with test or validation rows are dropped (`drop_leaks`), then training and test rows are
    cut to the asked number.

    Args:
        train_rows, test_rows: at most so many rows; None: all.
        seed: of the splits.
        answers: digits or words, of a task with a name; None: as the papers have them, and words for the demo.
        cue, data_dir: of `prompttransfer.tasks.papers.load_paper`; other tasks do without them.
        join: of `Task`, where a description does not say.
        bad_rows: error, or skip: rows that do not fit are left out and counted.
        file_options: of `prompttransfer.tasks.files.load_files`; tasks with a name do without them, and to a
            description only `whole` matters.

    Raises:
        FileNotFoundError, ValueError: no such task (with a suggestion), or rows that do not fit.
        ConnectionError: the hub does not give a data set of the papers.
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
        rows = "row is left out, as it overlaps" if task.leaked == 1 else "rows are left out, as they overlap"
        progress.note(f"{task.name}: {task.leaked} training {rows} with others")
    return task.limit(train_rows, test_rows)


def check_name(name: str) -> None:
    """Check, before anything is loaded, that a task of that name exists.

    Raises:
        FileNotFoundError: it names a file that is not there.
        ValueError: it is neither a file nor a task with a name, or its description is wrong; with a suggestion.
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
