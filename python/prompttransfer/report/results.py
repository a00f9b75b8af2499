"""Read a run folder: its rows, grouped by method and target, and their histories."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from prompttransfer.files.json_file import read_json
from prompttransfer.report.statistics import Comparison, comparisons
from prompttransfer.runs.rows import SourceRow, TargetRow, read_rows
from prompttransfer.tasks.scales import Scale, averaged, mean_scale, scale_of
from prompttransfer.training.history import History, read_history


@dataclass(frozen=True)
class Cell:
    """One method on one target: its rows, one per seed, and their means on the metric's scale."""

    rows: list[TargetRow]

    @property
    def first(self) -> TargetRow:
        """The first row, for values that do not depend on the seed."""
        return self.rows[0]

    @property
    def scale(self) -> Scale:
        return scale_of(self.first.metric)

    @property
    def score(self) -> float:
        return self.mean("score")

    @property
    def std(self) -> float | None:
        """Standard deviation of the score; None for a single seed."""
        return stdev(row.score for row in self.rows) if len(self.rows) > 1 else None

    @property
    def collapsed(self) -> int:
        """Number of collapsed seeds."""
        return sum(row.collapsed for row in self.rows)

    @property
    def other(self) -> dict[str, float]:
        """Mean of each other metric over the rows that have it."""
        scores = [row.other_scores for row in self.rows]
        metrics = dict.fromkeys(metric for by_metric in scores for metric in by_metric)
        return {metric: fmean(each[metric] for each in scores if metric in each) for metric in metrics}

    def mean(self, name: str) -> float:
        """Mean of a numeric field over the rows."""
        return fmean(getattr(row, name) for row in self.rows)


@dataclass(frozen=True)
class Results:
    """The rows of a run folder. content: its results.json, with model, machine and settings."""

    folder: Path
    rows: list[TargetRow]
    sources: list[SourceRow] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def retrained(self) -> bool:
        """Whether each seed has its own P_init and source prompts."""
        return bool(self.content.get("settings", {}).get("retrain_sources", False))

    @cached_property
    def methods(self) -> list[str]:
        """Names in the order of the run."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @cached_property
    def targets(self) -> list[str]:
        """Names in the order of the run."""
        return list(dict.fromkeys(row.target for row in self.rows))

    @cached_property
    def metrics(self) -> dict[str, str]:
        """Metric of each target."""
        return {row.target: row.metric for row in self.rows}

    @cached_property
    def averaged(self) -> tuple[str, ...]:
        """Targets whose scores may be averaged, see `prompttransfer.tasks.scales.averaged`."""
        return averaged(self.metrics)

    @property
    def scale(self) -> Scale:
        """Scale of the means."""
        return mean_scale(self.metrics)

    @cached_property
    def differences(self) -> list[Comparison]:
        """Comparison of every other method with PT."""
        return comparisons(self.rows, retrained=self.retrained)

    @cached_property
    def _cells(self) -> dict[tuple[str, str], Cell]:
        gathered: dict[tuple[str, str], list[TargetRow]] = {}
        for row in self.rows:
            gathered.setdefault((row.method, row.target), []).append(row)
        return {key: Cell(rows) for key, rows in gathered.items()}

    def cell(self, method: str, target: str) -> Cell | None:
        """Rows of a method on a target; None if there are no finished ones."""
        return self._cells.get((method, target))

    def cells(self) -> list[Cell]:
        """All cells with finished rows, target by target."""
        cells = [self.cell(method, target) for target in self.targets for method in self.methods]
        return [cell for cell in cells if cell]

    def mean(self, method: str) -> float | None:
        """Mean score over the targets that may be averaged; None unless the method has finished them all."""
        cells = [self.cell(method, target) for target in self.averaged]
        return fmean(cell.score for cell in cells if cell) if cells and all(cells) else None

    def baseline(self, target: str, name: str) -> float:
        """Mean baseline over the rows of a target. name: majority or zero_shot."""
        return fmean(getattr(row, name) for row in self.rows if row.target == target)

    @property
    def judged_on(self) -> str:
        """The scored split: test or validation."""
        return str(self.content.get("settings", {}).get("evaluate_on", "test"))

    @property
    def environment(self) -> dict[str, str]:
        """Model, commit, machine and versions, as far as known."""
        facts = {
            "model": self.content.get("model"),
            "weights (fingerprint)": self.content.get("model_fingerprint"),
            "commit": self.content.get("commit"),
            **{name.replace("_", " "): value for name, value in self.content.get("machine", {}).items()},
            **self.content.get("versions", {}),
        }
        return {name: str(value) for name, value in facts.items() if value not in (None, "")}

    def _repr_html_(self) -> str:
        """The leaderboard, for notebooks."""
        from prompttransfer.report.page import leaderboard  # here, because it imports this module

        return leaderboard(self)

    def histories(self, method: str, target: str) -> list[History]:
        """Histories of the finished seeds that have one."""
        rows = [row for row in self.rows if (row.method, row.target) == (method, target)]
        paths = [self.folder / "history" / f"{row.name}.json" for row in rows]
        existing = [path for path in paths if os.path.isfile(path)]  # also False for an invalid name
        return [read_history(read_json(path), f"{path}: not the history of a run") for path in existing]


def read_results(folder: str | Path) -> Results:
    """Read a run folder.

    Raises:
        FileNotFoundError: the folder has no results.json.
        ValueError: the file is not a result of `prompttransfer compare`.
    """
    folder = Path(folder)
    path = folder / "results.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is not a run folder: it has no results.json")
    content = read_json(path)
    parsed = read_rows(content, path)
    return Results(folder, parsed.rows, parsed.sources, content)
