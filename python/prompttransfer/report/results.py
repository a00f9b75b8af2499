"""A run folder read back: its rows, gathered by method and target, and the histories beside them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from prompttransfer.files.json_file import read_json
from prompttransfer.report.form import Content, History, by_metric, check_form
from prompttransfer.tasks.scales import Scale, averaged, scale_of


@dataclass(frozen=True)
class Cell:
    """The rows of one method on one target, over seeds, on the scale of the metric; std is None for a single seed."""

    method: str
    target: str
    metric: str
    scoring: str
    score: float
    std: float | None
    seeds: tuple[int, ...]
    majority: float
    zero_shot: float
    other: dict[str, float]
    collapsed: int
    test_rows: int
    train_rows: int
    trainable_parameters: int
    target_updates: int
    seconds: float

    @property
    def scale(self) -> Scale:
        return scale_of(self.metric)


@dataclass(frozen=True)
class Results:
    """results.json and the folder it stands in."""

    folder: Path
    content: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.content["rows"]
        return rows

    @property
    def retrained(self) -> bool:
        """Whether P_init and sources are new for each seed."""
        return bool(self.content.get("settings", {}).get("retrain_sources", False))

    @cached_property
    def methods(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @cached_property
    def targets(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(row["target"] for row in self.rows))

    @property
    def metrics(self) -> dict[str, str]:
        """Metric by target."""
        return {row["target"]: row["metric"] for row in self.rows}

    @cached_property
    def averaged(self) -> tuple[str, ...]:
        """The targets whose scores have a mean, see `prompttransfer.tasks.scales.averaged`."""
        return averaged(self.metrics)

    @cached_property
    def _cells(self) -> dict[tuple[str, str], Cell]:
        gathered: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self.rows:
            gathered.setdefault((row["method"], row["target"]), []).append(row)
        return {key: _cell(rows) for key, rows in gathered.items()}

    def cell(self, method: str, target: str) -> Cell | None:
        """Mean over the seeds; None when nothing of it is finished."""
        return self._cells.get((method, target))

    def cells(self) -> list[Cell]:
        """All finished ones, target by target."""
        found = [self.cell(method, target) for target in self.targets for method in self.methods]
        return [cell for cell in found if cell]

    def mean(self, method: str) -> float | None:
        """Mean score over the targets that have one; None unless the method has finished them all."""
        found = [self.cell(method, target) for target in self.averaged]
        return fmean(cell.score for cell in found if cell) if found and all(found) else None

    def baseline(self, target: str, name: str) -> float:
        """Mean over the rows of a target; name: majority or zero_shot."""
        return fmean(row[name] for row in self.rows if row["target"] == target)

    @property
    def judged_on(self) -> str:
        """The split that was scored: test or validation."""
        return str(self.content.get("settings", {}).get("evaluate_on", "test"))

    def histories(self, method: str, target: str) -> list[dict[str, Any]]:
        """Histories of the finished seeds that have one."""
        cell = self.cell(method, target)
        seeds = cell.seeds if cell else ()
        paths = [self.folder / "history" / f"{method}-{target}-seed{seed}.json" for seed in seeds]
        found = [(path, read_json(path)) for path in paths if os.path.isfile(path)]  # False, too, for no possible name
        for path, history in found:
            check_form(History, history, f"{path}: not the history of a run")
        return [history for _, history in found]


def read_results(folder: str | Path) -> Results:
    """Read a run folder.

    Raises:
        FileNotFoundError: no results.json there.
        ValueError: it is not a result of `prompttransfer compare`.
    """
    folder = Path(folder)
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no results.json")
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f"{path}: not a result of `prompttransfer compare`: it has no list of rows")
    check_form(Content, content, f"{path}: not a result of `prompttransfer compare`")
    return Results(folder, content)


def _cell(rows: Sequence[dict[str, Any]]) -> Cell:
    scores, first = [row["score"] for row in rows], rows[0]
    return Cell(
        method=first["method"],
        target=first["target"],
        metric=first["metric"],
        scoring=first.get("scoring", ""),
        score=fmean(scores),
        std=stdev(scores) if len(scores) > 1 else None,
        seeds=tuple(row["seed"] for row in rows),
        majority=fmean(row["majority"] for row in rows),
        zero_shot=fmean(row["zero_shot"] for row in rows),
        other=_other_scores(rows),
        collapsed=sum(bool(row["collapsed"]) for row in rows),
        test_rows=first["test_rows"],
        train_rows=first["train_rows"],
        trainable_parameters=first["trainable_parameters"],
        target_updates=first["target_updates"],
        seconds=fmean(row["seconds"] for row in rows),
    )


def _other_scores(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean of each of the other metrics over the rows that have it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for metric, value in by_metric(row.get("other_scores", {})).items():
            values.setdefault(metric, []).append(value)
    return {metric: fmean(found) for metric, found in values.items()}
