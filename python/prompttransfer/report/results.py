"""A run folder read back: its rows, gathered by method and target, and the histories beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any


@dataclass(frozen=True)
class Cell:
    """The rows of one method on one target, over seeds. Scores in percent; std is None for a single seed."""

    method: str
    target: str
    metric: str
    score: float
    std: float | None
    seeds: int
    majority: float
    zero_shot: float
    collapsed: int
    test_rows: int
    train_rows: int
    trainable_parameters: int
    target_updates: int
    seconds: float


@dataclass(frozen=True)
class Results:
    """results.json and the folder it stands in."""

    folder: Path
    content: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.content["rows"]

    @property
    def methods(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(row["method"] for row in self.rows))

    @property
    def targets(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(row["target"] for row in self.rows))

    def cell(self, method: str, target: str) -> Cell | None:
        """Mean over the seeds; None when nothing of it is finished."""
        rows = [row for row in self.rows if row["method"] == method and row["target"] == target]
        if not rows:
            return None
        scores, first = [row["score"] for row in rows], rows[0]
        return Cell(
            method=method,
            target=target,
            metric=first["metric"],
            score=fmean(scores),
            std=stdev(scores) if len(scores) > 1 else None,
            seeds=len(rows),
            majority=fmean(row["majority"] for row in rows),
            zero_shot=fmean(row["zero_shot"] for row in rows),
            collapsed=sum(bool(row["collapsed"]) for row in rows),
            test_rows=first["test_rows"],
            train_rows=first["train_rows"],
            trainable_parameters=first["trainable_parameters"],
            target_updates=first["target_updates"],
            seconds=fmean(row["seconds"] for row in rows),
        )

    def cells(self) -> list[Cell]:
        """All finished ones, target by target."""
        found = [self.cell(method, target) for target in self.targets for method in self.methods]
        return [cell for cell in found if cell]

    def mean(self, method: str) -> float | None:
        """Mean score over the targets; None unless the method has finished them all."""
        found = [self.cell(method, target) for target in self.targets]
        return fmean(cell.score for cell in found if cell) if all(found) else None

    @property
    def judged_on(self) -> str:
        """The split that was scored: test or validation."""
        return self.content.get("settings", {}).get("evaluate_on", "test")

    def histories(self, method: str, target: str) -> list[dict[str, Any]]:
        """Histories of the finished seeds that have one."""
        seeds = [row["seed"] for row in self.rows if row["method"] == method and row["target"] == target]
        paths = [self.folder / "history" / f"{method}-{target}-seed{seed}.json" for seed in seeds]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]

    def mean_series(self, method: str, target: str, *names: str) -> list[tuple[float, float]]:
        """A logged series, such as "loss" or "particles", "mean_distance": its points, means over the seeds."""
        points: dict[float, list[float]] = {}
        for history in self.histories(method, target):
            for name in names[:-1]:
                history = history.get(name, {})
            for update, value in history.get(names[-1], []):
                points.setdefault(update, []).append(value)
        return [(update, fmean(values)) for update, values in sorted(points.items())]


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
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise ValueError(f"{path}: not a result of `prompttransfer compare`: it has no list of rows")
    return Results(folder, content)


def score_text(cell: Cell | None) -> str:
    """Such as "87.5", "87.5 ± 0.8" over seeds; a dagger marks a collapsed prediction."""
    if cell is None:
        return "-"
    spread = "" if cell.std is None else f" ± {cell.std:.1f}"
    return f"{cell.score:.1f}{spread}{' †' if cell.collapsed else ''}"


def fact_rows(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """The honest table: every score with what it has to be compared with and what it cost. Head and rows."""
    head = ["target", "method", "score", "majority", "zero-shot", "collapsed", "metric", "test rows", "train rows"]
    head += ["seeds", "updates", "parameters", "seconds"]
    rows = [
        [
            cell.target,
            cell.method,
            score_text(cell),
            f"{cell.majority:.1f}",
            f"{cell.zero_shot:.1f}",
            f"{cell.collapsed} of {cell.seeds}" if cell.collapsed else "no",
            cell.metric,
            f"{cell.test_rows:,}",
            f"{cell.train_rows:,}",
            str(cell.seeds),
            str(cell.target_updates),
            f"{cell.trainable_parameters:,}",
            f"{cell.seconds:.0f}",
        ]
        for cell in cells
    ]
    return head, rows


def overview_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Method by target, with the two lines everything is measured against. Head and rows."""
    head = ["method", *results.targets, "mean"]
    rows = []
    for method in results.methods:
        mean = results.mean(method)
        scores = [score_text(results.cell(method, target)) for target in results.targets]
        rows.append([method, *scores, "-" if mean is None else f"{mean:.1f}"])
    for name in ("zero_shot", "majority"):
        values = [_baseline(results, target, name) for target in results.targets]
        rows.append([name.replace("_", "-"), *(f"{value:.1f}" for value in values), f"{fmean(values):.1f}"])
    return head, rows


def source_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """The source prompts. Head and rows."""
    head = ["source", "seed", "score", "majority", "zero-shot", "collapsed", "test rows", "train rows", "updates"]
    rows = [
        [
            str(row["source"]),
            str(row["seed"]),
            f"{row['score']:.1f}",
            f"{row['majority']:.1f}",
            f"{row['zero_shot']:.1f}",
            "yes" if row["collapsed"] else "no",
            f"{row['test_rows']:,}",
            f"{row['train_rows']:,}",
            str(row["updates"]),
        ]
        for row in results.content.get("sources", [])
    ]
    return head, rows


def _baseline(results: Results, target: str, name: str) -> float:
    return fmean(row[name] for row in results.rows if row["target"] == target)
