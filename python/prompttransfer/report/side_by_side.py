"""Several runs side by side: what differs in their settings, and the differences of their scores, pair by pair.

All others are compared with the first run. A pair is a row of the first run and one of another with the same method,
target and seed, scored by the same metric on as many test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prompttransfer.report.results import Results, read_results
from prompttransfer.report.statistics import Comparison, mean_heads, paired
from prompttransfer.report.tables import Table, mean_text, metric_name, score_text
from prompttransfer.runs.rows import TargetRow
from prompttransfer.settings.run import WITHOUT_EFFECT


@dataclass(frozen=True)
class Runs:
    """Run folders read back, by a short name that is theirs alone."""

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

    def difference(self, name: str, method: str) -> Comparison | None:
        """A run less the first one, of a method; None when there is no pair."""
        pairs = [pair for pair in self._pairs(name, method) if _comparable(*pair)]
        rows = [replace(row, method=run) for pair in pairs for run, row in zip((self.first, name), pair, strict=True)]
        retrained = any(self.results[run].retrained for run in (self.first, name))
        return paired(rows, name, self.first, retrained=retrained)

    def why_not(self, name: str, method: str, target: str) -> str:
        """Why a run has no pair with the first one on a target; empty where it has, or lacks the method there."""
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
    """Whether two rows were scored alike."""
    return (one.metric, one.test_rows) == (other.metric, other.test_rows)


def read_runs(folders: Sequence[str | Path]) -> Runs:
    """Read run folders.

    Raises:
        FileNotFoundError, ValueError: fewer than two, one of them twice, or one is not a run folder.
    """
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
            found = runs.difference(name, method)
            line += found.mean_texts() if found else [""] * 3
        lines.append(line)
    return head, lines


def score_rows(runs: Runs) -> Table:
    """Every method and target: the score of every run, and the differences to the first run."""
    head = ["target", "method", "metric", *runs.results, *(f"{name} minus {runs.first}" for name in runs.others)]
    found = {(name, method): runs.difference(name, method) for name in runs.others for method in runs.methods}
    lines = []
    for target in runs.targets:
        for method in runs.methods:
            cells = [results.cell(method, target) for results in runs.results.values()]
            if not any(cells):
                continue
            differences = []
            for name in runs.others:
                comparison, missing = found[name, method], runs.why_not(name, method, target)
                if comparison and target in comparison.targets:
                    differences.append(f"{comparison.text(target)} ({comparison.targets[target].count})")
                else:
                    differences.append(f"not compared: {missing}" if missing else "-")
            lines.append([target, method, metric_name(runs.metric(target)), *map(score_text, cells), *differences])
    return head, lines


def setting_rows(runs: Runs) -> Table:
    """What differs: model, commit, machine, versions and settings."""
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
    """Mean differences to the first run for a picture: by method, with the run where there are several."""
    found = [(method, name, runs.difference(name, method)) for method in runs.methods for name in runs.others]
    several = len(runs.others) > 1
    return [replace(each, method=f"{method}: {name}" if several else method) for method, name, each in found if each]


def comparison_facts(runs: Runs) -> dict[str, Any]:
    """All tables as one object for machines."""
    head, rows = setting_rows(runs)
    return {
        "runs": {name: str(results.folder) for name, results in runs.results.items()},
        "differing_settings": [dict(zip(head, row, strict=True)) for row in rows],
        "differences": [
            {
                "run": name,
                "to": runs.first,
                "method": method,
                "targets": {target: asdict(interval) for target, interval in found.targets.items()},
                "averaged": list(found.averaged),
                "over_seeds": asdict(found.over_seeds) if found.over_seeds else None,
                "over_targets": asdict(found.over_targets) if found.over_targets else None,
                "won_tied_lost": [found.wins, found.ties, found.losses],
            }
            for name in runs.others
            for method in runs.methods
            if (found := runs.difference(name, method))
        ],
    }


def _flat(settings: dict[str, Any], before: str = "") -> dict[str, str]:
    """Settings by their path: "mpt.rank"."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{before}{name}.")
        else:
            found[before + name] = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return found


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    whole = [path.resolve().parts for path in paths]
    lengths = range(1, max(map(len, whole)) + 1)
    tries = (["/".join(parts[-length:]) for parts in whole] for length in lengths)
    return next(names for names in tries if len(set(names)) == len(names))
