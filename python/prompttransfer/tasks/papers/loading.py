"""A task from a data set of the papers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset, disable_progress_bars, enable_progress_bars
from datasets.utils import are_progress_bars_disabled

from prompttransfer.files.paths import expanded
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.tasks.papers.rendering import rendered
from prompttransfer.tasks.papers.sources import find_split
from prompttransfer.tasks.papers.splits import PARTS, hub_splits
from prompttransfer.tasks.papers.table import PAPER_TASKS
from prompttransfer.tasks.task import Task, Wording
from prompttransfer.tasks.text_metrics import missing, require


def load_paper(
    name: str,
    *,
    answers: Literal["digits", "words"] = "digits",
    cue: str = "",
    data_dir: str | Path | None = None,
    bad_rows: Literal["error", "skip"] = "error",
    seed: int = 42,
    progress: ProgressReporter | None = None,
) -> Task:
    """A data set of the papers with all its rows; leaks are not removed yet.

    Args:
        name: in `PAPER_TASKS`, such as "glue/mnli".
        answers: verbalisers: digits, as in the papers, or words.
        cue: of `Task`.
        data_dir: folder with a copy of the hub's files (`prompttransfer.tasks.papers.sources`); None: the hub.
        bad_rows: what happens to rows with a missing field, an empty text or a label outside the set: an error, or
            they are left out and counted.
        seed: of the splits, the data seed of the papers.

    Raises:
        FileNotFoundError: the folder has no copy of the set.
        ConnectionError: the hub does not give it.
        ValueError: a column is missing, or rows do not fit.
        ImportError: the metric of the set cannot be computed here. Those beside it are left out then, with a note.
    """
    if answers not in ("digits", "words"):
        raise ValueError(f"answers: got {answers!r}, want digits or words")
    if bad_rows not in ("error", "skip"):
        raise ValueError(f"bad_rows: got {bad_rows!r}, want error or skip")
    spec, progress = PAPER_TASKS[name], progress or ProgressReporter()
    more_metrics = spec.more_metrics
    if not spec.words:
        require(spec.metric)
        lacking = {metric: lack for metric in more_metrics if (lack := missing(metric))}
        for lack in lacking.values():
            progress.note(f"{name}: a score is left out: {lack}")
        more_metrics = tuple(metric for metric in more_metrics if metric not in lacking)
    folder = None if data_dir is None else expanded(data_dir)
    progress.note(f"{name}: {folder or 'hub'}, {spec.hub}{f', {spec.config}' if spec.config else ''}")

    with _quiet():
        names = dict.fromkeys(split for part in PARTS for split in hub_splits(spec.splits, part))
        splits = {split: find_split(spec, split, folder) for split in names}
        parts = {
            part: rendered(spec, part, [splits[split] for split in hub_splits(spec.splits, part)], seed)
            for part in PARTS
        }
    problems = [problem for table in parts.values() for problem in table.data.column("problem").to_pylist() if problem]
    if problems:
        rows = sum(map(len, parts.values()))
        what = f"{name}: {len(problems)} of {rows} rows do not fit; the first: {problems[0]}"
        if bad_rows == "error":
            raise ValueError(f"{what}; --bad-rows skip leaves them out")
        if len(problems) == rows:
            raise ValueError(f"{what}; none is left")
        progress.note(f"{what}; they are left out")
    return Task(
        name=name.replace("/", "-"),  # it names files
        **{part: _without_problems(table) for part, table in parts.items()},
        choices=spec.choices(answers),
        scale=spec.scale,
        metric=spec.metric,
        more_metrics=more_metrics,
        max_length=spec.max_length,
        cut="end",  # the texts begin with what is asked
        cue=cue,
        wording=Wording(spec.text({name: f"{{{name}}}" for name in spec.inputs.names})),
        origin=f"{spec.content} ({', '.join(filter(None, (spec.hub, spec.config)))})",
        skipped=len(problems),
    )


def _without_problems(table: Dataset) -> Dataset:
    good = pc.equal(table.data.column("problem"), "").to_numpy()
    table = table.remove_columns("problem")
    return table if good.all() else table.select(np.flatnonzero(good))


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars of `datasets`: those of a run are shown by `prompttransfer.files.progress`."""
    hidden = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not hidden:
            enable_progress_bars()
