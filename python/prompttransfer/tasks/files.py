"""A task from your own tables, named by their files or by a YAML description.

A single table is split 80/10/10 at random. With a separate test table, a tenth of the training rows becomes validation
rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.settings.reading import Reading
from prompttransfer.tasks.arrow_tables import folder_splits
from prompttransfer.tasks.cells import Misfit, answers_of, label_of, text_of
from prompttransfer.tasks.description import SPLITS, Description
from prompttransfer.tasks.labels import Labels
from prompttransfer.tasks.names import file_paths, is_dataset_folder, split_tables, task_name
from prompttransfer.tasks.rendered import Reservoir, content_key, row_file, stored
from prompttransfer.tasks.tables import Row, read_rows
from prompttransfer.tasks.task import Example, Task, Wording
from prompttransfer.tasks.templates import render
from prompttransfer.tasks.text_metrics import require

# fraction of the training table for validation, and for test, if they have no files of their own
_HELD_OUT = 0.1


def load_files(
    files: str,
    *,
    text_column: str = "text",
    label_column: str = "label",
    template: str | None = None,
    whole: bool = False,
    seed: int = 42,
    bad_rows: str = "error",
    progress: ProgressReporter | None = None,
    **settings: Any,
) -> Task:
    """Load a task from one file, or from "training file:test file", without removing leaks.

    Args:
        text_column, label_column: columns to read.
        template: text for the model, with columns in braces. Default: the text column and "\\nLabel:".
        whole: use all rows of a single file as test rows, for scoring. Has no effect on two files.
        seed, bad_rows, progress: as in `load_described`.
        settings: other fields of `Description`, such as choices, metric and max_words.

    Raises:
        FileNotFoundError, ValueError: a file is missing or invalid; names the file, the row and the column.
    """
    paths = file_paths(files)
    if len(paths) > 2:
        raise ValueError(f"{files}: got {len(paths)} files, want one, or two as training:test")
    # A column may have any name, but a field of a template may not.
    settings |= {"template": template} if template else {"fields": {"text": text_column}}
    description = Description(name=task_name(paths[0]), train=paths[:1], test=paths[1:], label=label_column, **settings)
    return load_described(description, whole=whole, seed=seed, bad_rows=bad_rows, progress=progress)


def load_described(
    description: Description,
    *,
    whole: bool = False,
    seed: int = 42,
    bad_rows: str = "error",
    progress: ProgressReporter | None = None,
) -> Task:
    """Load a described task, without removing leaks. Rendered rows are stored by content and reused.

    Args:
        whole: if there are no separate test rows, use all rows as test rows.
        seed, bad_rows: defaults for the description. Invalid rows are an error, or with "skip" omitted and counted.
        progress: a `prompttransfer.files.progress.Progress` that reports the number of omitted rows.
    """
    if description.answer is not None:
        for metric in description.metrics:
            require(metric)
    seed = seed if description.seed is None else description.seed
    files = _files(description)
    source = _Source(description, files, (description.bad_rows or bad_rows) == "skip")
    shares, caps = _shares(files, whole), description.rows.model_dump()
    drawn = shares if description.streaming else {}
    settings = description.model_dump(
        mode="json",
        include={"template", "answer", "choices", "max_words", *Reading.model_fields},
    )
    settings |= {"columns": description.columns, "target": description.target, "skip": source.skip}
    if description.streaming:
        settings |= {"seed": seed, "shares": shares, "rows": caps}

    def write(folder: Path) -> dict[str, Any]:
        source.check()
        _write(source, folder, drawn, caps if description.streaming else {}, seed)
        notes = source.labels.notes if source.labels else ()
        return {"choices": source.choices, "notes": notes, "skipped": source.skipped, "first": source.first}

    data, facts = stored(content_key(files, settings), write)
    if progress is not None:
        for note in facts["notes"]:
            progress.note(f"{description.name}: {note}")
    if facts["skipped"] and progress is not None:
        omitted = f"{facts['skipped']}; the first: {facts['first']}"
        progress.note(f"{description.name}: rows left out because they do not fit: {omitted}")
    empty = next(iter(data.values())).select([])
    splits = {split: empty for split in SPLITS}
    for split, (table, order) in _cut(data, {} if drawn else shares, seed).items():
        splits[split] = table.select(order[: caps[split]])
    if not len(splits["test"]) or ("train" in shares and not len(splits["train"])):
        paths = ", ".join(map(str, files["train"]))
        raise ValueError(f"{paths}: got {len(data['train'])} rows, want at least 10 to split them 80/10/10")
    same = ("name", "more_metrics", "max_length", "cut", "join", "max_answer")
    return Task(
        **splits,
        **{name: getattr(description, name) for name in same},
        choices=tuple(facts["choices"]),
        metric=description.metrics[0],
        wording=Wording(description.template, description.max_words, description.columns, description.reading),
        origin=", ".join(dict.fromkeys(path.name for paths in files.values() for path in paths)),
        skipped=facts["skipped"],
    )


def _files(description: Description) -> dict[str, tuple[Path, ...]]:
    """Files of each split that has any. A folder as the training file gives all splits in it."""
    files = {split: getattr(description, split) for split in SPLITS}
    if len(files["train"]) == 1 and (folder := files["train"][0]).is_dir():
        if not is_dataset_folder(folder):
            return split_tables(folder) | {split: paths for split, paths in files.items() if paths and split != "train"}
        inner = folder_splits(folder)
        files |= {split: files["train"] for split in SPLITS if not files[split] and split in inner}
    return {split: paths for split, paths in files.items() if paths}


def _shares(files: Mapping[str, Any], whole: bool) -> dict[str, float]:
    """Fraction of the training table for each split."""
    if "train" not in files:
        return {}
    if "test" not in files and whole:
        return {"test": 1.0}
    others = [split for split in SPLITS[1:] if split not in files]
    return {"train": round(1 - _HELD_OUT * len(others), 1), **dict.fromkeys(others, _HELD_OUT)}


def _cut(data: Mapping[str, Dataset], shares: Mapping[str, float], seed: int) -> dict[str, tuple[Dataset, np.ndarray]]:
    """Table and row indices of each split, in random order. The training table is cut into shares, if there are any."""
    splits = {}
    for split, table in data.items():
        order = np.random.default_rng(seed).permutation(len(table))
        parts = shares if split == "train" and shares else {split: 1.0}
        sizes = [round(share * len(table)) for share in parts.values()]
        *pieces, rest = np.split(order, np.minimum(np.cumsum(sizes), len(order)))
        cut = dict(zip(parts, pieces, strict=True))
        last = "test" if "test" in cut else split
        cut[last] = np.concatenate([cut[last], rest])
        splits |= {name: (table, piece) for name, piece in cut.items()}
    return splits


def _write(
    source: _Source, folder: Path, shares: Mapping[str, float], caps: Mapping[str, int | None], seed: int
) -> None:
    """Write the rows of each table in one pass.

    If the training table has shares, each of its rows goes to a random split. If a split has a cap, reservoir sampling
    draws its rows.
    """
    rng = np.random.default_rng(seed)
    for table in source.files:
        splits = shares if table == "train" and shares else {table: 1.0}
        with ExitStack() as stack:
            write = {name: stack.enter_context(row_file(folder / f"{name}.arrow")) for name in splits}
            drawn = {name: Reservoir(cap, rng) for name in splits if (cap := caps.get(name))}
            show = write | {name: reservoir.show for name, reservoir in drawn.items()}
            names, bounds = list(splits), np.cumsum(list(splits.values()))[:-1]
            for example in source.examples(table):
                show[names[int(np.searchsorted(bounds, rng.random(), side="right"))]](example)
            for name, reservoir in drawn.items():
                for example in reservoir.rows:
                    write[name](example)


@dataclass
class _Source:
    """The examples of a task, read row by row from its files. Counts the invalid rows."""

    description: Description
    files: Mapping[str, tuple[Path, ...]]
    skip: bool
    labels: Labels | None = None
    skipped: int = 0
    first: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        return self.labels.choices if self.labels else ()

    def check(self) -> None:
        """Read the head of every file and work out what the labels mean."""
        for split, paths in self.files.items():
            for path in paths:
                columns = (*self.description.columns.values(), self.description.target)
                if next(self._read(path, columns, split), None) is None:
                    raise ValueError(f"{path}: got no rows, want at least one")
        if self.description.answer is not None:
            return
        choices = self.description.choices
        if isinstance(choices, Mapping):
            self.labels = Labels.of_mapping(choices)
        elif choices is not None:
            self.labels = Labels.of_choices(choices, self._label_cells())
        else:
            path, column = next(iter(self.files.values()))[0], self.description.target
            self.labels = Labels.of_values(self._label_cells(), f"{path}, column {column!r}")

    def examples(self, split: str) -> Iterator[Example]:
        """The rows of a split as examples. Raises Misfit for an invalid row, unless such rows are skipped."""
        paths, columns = self.files[split], (*self.description.columns.values(), self.description.target)
        bad, kept, first = 0, 0, ""
        for row in (row for path in paths for row in self._read(path, columns, split)):
            try:
                example = self._example(row)
            except Misfit as error:
                if not self.skip:
                    raise
                bad, first = bad + 1, first or str(error)
            else:
                kept += 1
                yield example
        if not kept:
            raise Misfit(f"{paths[0]}: none of {bad} rows fits; the first: {first}")
        self.skipped, self.first = self.skipped + bad, self.first or first

    def _example(self, row: Row) -> Example:
        described = self.description
        fields = {name: row.read(column, text_of) for name, column in described.columns.items()}
        if self.labels is None:
            references = row.read(described.target, answers_of)
            return render(described.template, fields, references=references, max_words=described.max_words)
        label = row.read(described.target, self.labels)
        return render(described.template, fields, label, max_words=described.max_words)

    def _label_cells(self) -> Iterator[Any]:
        """Label cells of the first split that has files, which is the training split if there is one."""
        split, paths = next(iter(self.files.items()))
        for path in paths:
            for row in self._read(path, (self.description.target,), split):
                try:
                    yield row.read(self.description.target, _label)
                except Misfit:
                    if not self.skip:
                        raise

    def _read(self, path: Path, columns: Sequence[str], split: str) -> Iterator[Row]:
        return read_rows(path, columns, split=split, **dict(self.description.reading))


def _label(value: Any) -> Any:
    """Return the cell unchanged after checking that it is a label."""
    label_of(value)
    return value
