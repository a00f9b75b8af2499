"""A run folder read back: its rows, gathered by method and target, and the histories beside them."""

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
    """One method on one target: its rows, one for each seed, and their means on the scale of the metric."""

    rows: list[TargetRow]

    @property
    def first(self) -> TargetRow:
        """For all that does not depend on the seed."""
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
        """Mean of each of the other metrics over the rows that have it."""
        scores = [row.other_scores for row in self.rows]
        metrics = dict.fromkeys(metric for found in scores for metric in found)
        return {metric: fmean(found[metric] for found in scores if metric in found) for metric in metrics}

    def mean(self, name: str) -> float:
        """Mean of a number of the rows."""
        return fmean(getattr(row, name) for row in self.rows)


@dataclass(frozen=True)
class Results:
    """The rows of a run folder; content: its results.json as it stands, with model, machine and settings."""

    folder: Path
    rows: list[TargetRow]
    sources: list[SourceRow] = field(default_factory=list)
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def retrained(self) -> bool:
        """Whether P_init and sources are new for each seed."""
        return bool(self.content.get("settings", {}).get("retrain_sources", False))

    @cached_property
    def methods(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @cached_property
    def targets(self) -> list[str]:
        """In the order of the run."""
        return list(dict.fromkeys(row.target for row in self.rows))

    @cached_property
    def metrics(self) -> dict[str, str]:
        """Metric by target."""
        return {row.target: row.metric for row in self.rows}

    @cached_property
    def averaged(self) -> tuple[str, ...]:
        """The targets whose scores have a mean, see `prompttransfer.tasks.scales.averaged`."""
        return averaged(self.metrics)

    @property
    def scale(self) -> Scale:
        """Of the means."""
        return mean_scale(self.metrics)

    @cached_property
    def differences(self) -> list[Comparison]:
        """Every other method against PT."""
        return comparisons(self.rows, retrained=self.retrained)

    @cached_property
    def _cells(self) -> dict[tuple[str, str], Cell]:
        gathered: dict[tuple[str, str], list[TargetRow]] = {}
        for row in self.rows:
            gathered.setdefault((row.method, row.target), []).append(row)
        return {key: Cell(rows) for key, rows in gathered.items()}

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
        return fmean(getattr(row, name) for row in self.rows if row.target == target)

    @property
    def judged_on(self) -> str:
        """The split that was scored: test or validation."""
        return str(self.content.get("settings", {}).get("evaluate_on", "test"))

    @property
    def environment(self) -> dict[str, str]:
        """Model, commit, machine and versions, as far as they are known."""
        facts = {
            "model": self.content.get("model"),
            "weights (fingerprint)": self.content.get("model_fingerprint"),
            "commit": self.content.get("commit"),
            **{name.replace("_", " "): value for name, value in self.content.get("machine", {}).items()},
            **self.content.get("versions", {}),
        }
        return {name: str(value) for name, value in facts.items() if value not in (None, "")}

    def _repr_html_(self) -> str:
        """In a notebook: the leaderboard."""
        from prompttransfer.report.page import leaderboard  # which imports this module

        return leaderboard(self)

    def histories(self, method: str, target: str) -> list[History]:
        """Histories of the finished seeds that have one."""
        rows = [row for row in self.rows if (row.method, row.target) == (method, target)]
        paths = [self.folder / "history" / f"{row.name}.json" for row in rows]
        found = [path for path in paths if os.path.isfile(path)]  # False, too, for no possible name
        return [read_history(read_json(path), f"{path}: not the history of a run") for path in found]


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
    found = read_rows(content, path)
    return Results(folder, found.rows, found.sources, content)
