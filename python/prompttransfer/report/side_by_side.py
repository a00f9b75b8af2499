"""Several runs side by side: differences of their settings, and differences of their scores, pair by pair.

Every run is compared with the first. A pair is a row of the first run and a row of another run with the same method,
target and seed, scored by the same metric on the same number of test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from prompttransfer.report.results import Results, read_results
from prompttransfer.report.statistics import Comparison, mean_heads, paired
from prompttransfer.report.tables import Table, mean_text, metric_name, score_text
from prompttransfer.runs.rows import TargetRow
from prompttransfer.settings.run import WITHOUT_EFFECT


@dataclass(frozen=True)
class Runs:
    """Results of several run folders, by a short unique name."""

    results: dict[str, Results]

    @property
    def first(self) -> str:
        return next(iter(self.results))

    @property
    def others(self) -> list[str]:
        return list(self.results)[1:]

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(method for results in self.results.values() for method in results.methods))

    @property
    def targets(self) -> list[str]:
        return list(dict.fromkeys(target for results in self.results.values() for target in results.targets))

    def metric(self, target: str) -> str:
        return next(results.metrics[target] for results in self.results.values() if target in results.metrics)

    @cached_property
    def comparisons(self) -> dict[tuple[str, str], Comparison]:
        """Comparison of every other run with the first one, by run and method, where there are pairs."""
        found = {(name, method): self._comparison(name, method) for name in self.others for method in self.methods}
        return {key: comparison for key, comparison in found.items() if comparison}

    def _comparison(self, name: str, method: str) -> Comparison | None:
        pairs = [pair for pair in self._pairs(name, method) if _comparable(*pair)]
        rows = [replace(row, method=run) for pair in pairs for run, row in zip((self.first, name), pair, strict=True)]
        retrained = any(self.results[run].retrained for run in (self.first, name))
        return paired(rows, name, self.first, retrained=retrained)

    def why_not(self, name: str, method: str, target: str) -> str:
        """Reason why a run has no pair with the first one on a target; empty if it has one or lacks the method."""
        pairs = [pair for pair in self._pairs(name, method) if pair[0].target == target]
        if any(_comparable(*pair) for pair in pairs):
            return ""
        if not pairs:
            both = all(self.results[run].cell(method, target) for run in (self.first, name))
            return "no common seed" if both else ""
        one, other = pairs[0]
        if one.metric != other.metric:
            return f"{one.metric}, {other.metric}"
        return f"{one.test_rows}, {other.test_rows} test rows"

    def _pairs(self, name: str, method: str) -> list[tuple[TargetRow, TargetRow]]:
        """Rows of the first run and of another with the same target and seed."""
        before, after = (
            {(row.target, row.seed): row for row in self.results[run].rows if row.method == method}
            for run in (self.first, name)
        )
        return [(before[key], row) for key, row in after.items() if key in before]


def _comparable(one: TargetRow, other: TargetRow) -> bool:
    """Whether two rows were scored in the same way."""
    return (one.metric, one.test_rows) == (other.metric, other.test_rows)


def read_runs(folders: Sequence[str | Path]) -> Runs:
    """Read run folders. Raises the errors of `write_comparison`."""
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise ValueError(f"runs: got {len(paths)}, want at least two to compare")
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError(f"runs: want different folders, got {', '.join(map(str, paths))}")
    return Runs(dict(zip(_short_names(paths), map(read_results, paths), strict=True)))


def mean_rows(runs: Runs) -> Table:
    """Mean of every method over the targets of every run, and the mean difference to the first run."""
    head = [
        "method",
        *runs.results,
        *(head for name in runs.others for head in mean_heads(f"{name} minus {runs.first}")),
    ]
    lines = []
    for method in runs.methods:
        line = [method, *(mean_text(results, results.mean(method)) for results in runs.results.values())]
        for name in runs.others:
            comparison = runs.comparisons.get((name, method))
            line += comparison.mean_texts() if comparison else [""] * 3
        lines.append(line)
    return head, lines


def score_rows(runs: Runs) -> Table:
    """The score of every run for every method and target, and the differences to the first run."""
    head = ["target", "method", "metric", *runs.results, *(f"{name} minus {runs.first}" for name in runs.others)]
    lines = []
    for target in runs.targets:
        for method in runs.methods:
            cells = [results.cell(method, target) for results in runs.results.values()]
            if not any(cells):
                continue
            differences = []
            for name in runs.others:
                comparison, missing = runs.comparisons.get((name, method)), runs.why_not(name, method, target)
                if comparison and target in comparison.targets:
                    differences.append(f"{comparison.text(target)} ({comparison.targets[target].count})")
                else:
                    differences.append(f"not compared: {missing}" if missing else "-")
            lines.append([target, method, metric_name(runs.metric(target)), *map(score_text, cells), *differences])
    return head, lines


def setting_rows(runs: Runs) -> Table:
    """Differences in model, commit, machine, versions and settings."""
    facts = [
        results.environment
        | {
            name: value
            for name, value in _flat(results.content.get("settings", {})).items()
            if name not in WITHOUT_EFFECT
        }
        for results in runs.results.values()
    ]
    names = dict.fromkeys(name for known in facts for name in known)
    lines = [[name, *(known.get(name, "-") for known in facts)] for name in names]
    return ["setting", *runs.results], [line for line in lines if len(set(line[1:])) > 1]


def labelled_differences(runs: Runs) -> list[Comparison]:
    """Mean differences to the first run, for a picture: by method, and by run if there are several."""
    several = len(runs.others) > 1
    return [
        replace(comparison, method=f"{method}: {name}" if several else method)
        for method in runs.methods
        for name in runs.others
        if (comparison := runs.comparisons.get((name, method)))
    ]


def comparison_facts(runs: Runs) -> dict[str, Any]:
    """All tables as one JSON object."""
    head, rows = setting_rows(runs)
    return {
        "runs": {name: str(results.folder) for name, results in runs.results.items()},
        "differing_settings": [dict(zip(head, row, strict=True)) for row in rows],
        "differences": [
            {
                "run": name,
                "to": runs.first,
                "method": method,
                "targets": {target: asdict(interval) for target, interval in comparison.targets.items()},
                "averaged": list(comparison.averaged),
                "over_seeds": asdict(comparison.over_seeds) if comparison.over_seeds else None,
                "over_targets": asdict(comparison.over_targets) if comparison.over_targets else None,
                "won_tied_lost": [comparison.wins, comparison.ties, comparison.losses],
            }
            for (name, method), comparison in runs.comparisons.items()
        ],
    }


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    """Settings by their path, such as "mpt.rank"."""
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are unique."""
    whole = [path.resolve().parts for path in paths]
    lengths = range(1, max(map(len, whole)) + 1)
    tries = (["/".join(parts[-length:]) for parts in whole] for length in lengths)
    return next(names for names in tries if len(set(names)) == len(names))
