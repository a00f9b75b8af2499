"""Choose every method's settings by the best mean validation score over targets, from grids of equal size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.evidence.studies import TUNING, Best, Study
from prompttransfer.report import Results


def choose(study: Study, results: Results) -> dict[str, Any]:
    """Content of <study>.json: every setting tried, with its scores, and the best setting of each method.

    The best setting has the largest mean over targets of the mean over seeds; on a tie, the first in the grid. Settings
    that diverged in a cell cannot win.

    Raises:
        ValueError: the study scores on test rows, or is not finished.
    """
    if results.judged_on != "validation":
        raise ValueError(f"{study.name}: settings are chosen on validation rows, got evaluate_on={results.judged_on!r}")
    if not results.content["finished"]:
        raise ValueError(f"{study.name} is not finished; run `python -m bench.evidence tune {study.name}`")
    tried = []
    for label, entry in study.entries.items():
        cells = [results.cell(label, target) for target in study.config.targets]
        seeds = len(study.config.seeds)
        complete = all(cell is not None and len(cell.rows) == seeds for cell in cells)
        scores = {cell.first.target: cell.score for cell in cells if cell}
        mean = fmean(scores.values()) if complete else None
        tried.append({"method": entry.method, "settings": entry.settings, "mean": mean, "scores": scores})
    best = {}
    for method in dict.fromkeys(row["method"] for row in tried):
        rows = [row for row in tried if row["method"] == method and row["mean"] is not None]
        if not rows:
            raise ValueError(f"{method} diverged with every setting of its grid")
        best[method] = max(rows, key=lambda row: row["mean"])["settings"]
    facts = {name: results.content[name] for name in ("model", "commit", "machines", "versions", "settings")}
    return {**facts, "best": best, "tried": tried}


def best_settings(archives: Path) -> Best:
    """Chosen settings of the finished tuning studies, by study and method."""
    paths = {name: archives / f"{name}.json" for name in TUNING}
    return {
        name: json.loads(path.read_text(encoding="utf-8"))["best"] for name, path in paths.items() if path.is_file()
    }


def settings_text(settings: Mapping[str, Any], prefix: str = "") -> str:
    """Format settings as "target_learning_rate 0.02, spot.own_fraction 0.25"."""
    parts = []
    for name, value in settings.items():
        text = settings_text(value, f"{prefix}{name}.") if isinstance(value, Mapping) else f"{prefix}{name} {value}"
        parts.append(text)
    return ", ".join(parts)
