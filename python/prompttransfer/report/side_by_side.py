"""Several runs side by side: what differs in their settings, and the differences of their scores, pair by pair.

The first run is what the others are compared with. A pair is a row of the first run and one of another with the same
method, target and seed, judged by the same metric on as many test rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompttransfer.report.results import Results, read_results
from prompttransfer.report.statistics import Comparison, Interval, interval_text, paired
from prompttransfer.report.tables import Table, metric_name, score_text
from prompttransfer.runs.rows import TargetRow
from prompttransfer.tasks.scales import scale_of

_PLACES = {"output", "cache"}  # settings that change no score


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
        before, after = (self._rows(run, method) for run in (self.first, name))
        pairs = [key for key in after if key in before and comparable(before[key], after[key])]
        rows = [replace(rows[key], method=run) for run, rows in ((self.first, before), (name, after)) for key in pairs]
        retrained = any(self.results[run].retrained for run in (self.first, name))
        return paired(rows, name, self.first, retrained=retrained)

    def why_not(self, name: str, method: str, target: str) -> str:
        """Why a run has no pair with the first one on a target; empty where it has, or lacks the method there."""
        before, after = (self._rows(run, method) for run in (self.first, name))
        before, after = ({key: row for key, row in rows.items() if key[0] == target} for rows in (before, after))
        if not before or not after:
            return ""
        common = [(before[key], after[key]) for key in after if key in before]
        if not common:
            return "no common seed"
        if any(comparable(*pair) for pair in common):
            return ""
        one, other = common[0]
        if one.metric != other.metric:
            return f"{one.metric}, {other.metric}"
        return f"{one.test_rows}, {other.test_rows} test rows"

    def _rows(self, name: str, method: str) -> dict[tuple[str, int], TargetRow]:
        return {(row.target, row.seed): row for row in self.results[name].rows if row.method == method}


def comparable(one: TargetRow, other: TargetRow) -> bool:
    """Whether two rows were judged alike."""
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
    head = ["method", *runs.results]
    for name in runs.others:
        head += [f"{name} to {runs.first}, these targets", "such targets", "won/tied/lost"]
    lines = []
    for method in runs.methods:
        line = [method]
        for results in runs.results.values():
            mean = results.mean(method)
            line.append("-" if mean is None else scale_of(results.metrics[results.averaged[0]]).text(mean))
        for name in runs.others:
            found = runs.difference(name, method)
            if found is None:
                line += ["", "", ""]
                continue
            digits = scale_of(runs.metric(found.averaged[0])).digits if found.averaged else 1
            line += [interval_text(found.these_targets, digits), interval_text(found.such_targets, digits)]
            line += [f"{found.wins}/{found.ties}/{found.losses}"]
        lines.append(line)
    return head, lines


def score_rows(runs: Runs) -> Table:
    """Every method and target: the score of every run, and the differences to the first run."""
    head = ["target", "method", "metric", *runs.results, *(f"{name} to {runs.first}" for name in runs.others)]
    found = {(name, method): runs.difference(name, method) for name in runs.others for method in runs.methods}
    lines = []
    for target in runs.targets:
        digits = scale_of(runs.metric(target)).digits
        for method in runs.methods:
            cells = [results.cell(method, target) for results in runs.results.values()]
            if not any(cells):
                continue
            differences = []
            for name in runs.others:
                comparison = found[name, method]
                interval = comparison.targets.get(target) if comparison else None
                missing = runs.why_not(name, method, target)
                said = "-" if interval is None else f"{interval_text(interval, digits)} ({interval.count})"
                differences.append(f"not compared: {missing}" if missing else said)
            lines.append([target, method, metric_name(runs.metric(target)), *map(score_text, cells), *differences])
    return head, lines


def setting_rows(runs: Runs) -> Table:
    """What differs: model, commit, machine, versions and settings."""
    facts = {name: _facts(results.content) for name, results in runs.results.items()}
    names = dict.fromkeys(name for known in facts.values() for name in known)
    lines = [[name, *(known.get(name, "-") for known in facts.values())] for name in names]
    return ["setting", *runs.results], [line for line in lines if len(set(line[1:])) > 1]


def labelled_differences(runs: Runs) -> list[Comparison]:
    """Mean differences to the first run for a picture: by method, with the run where there are several."""
    found = []
    for method in runs.methods:
        for name in runs.others:
            comparison = runs.difference(name, method)
            if comparison:
                label = method if len(runs.others) == 1 else f"{method}: {name}"
                found.append(replace(comparison, method=label))
    return found


def comparison_facts(runs: Runs) -> dict[str, Any]:
    """All tables as one object for machines."""

    def records(table: Table) -> list[dict[str, str]]:
        head, rows = table
        return [dict(zip(head, row, strict=True)) for row in rows]

    return {
        "runs": {name: str(results.folder) for name, results in runs.results.items()},
        "differing_settings": records(setting_rows(runs)),
        "differences": [
            {
                "run": name,
                "to": runs.first,
                "method": method,
                "targets": {target: _numbers(interval) for target, interval in found.targets.items()},
                "averaged": list(found.averaged),
                "these_targets": _numbers(found.these_targets),
                "such_targets": _numbers(found.such_targets),
                "won_tied_lost": [found.wins, found.ties, found.losses],
            }
            for name in runs.others
            for method in runs.methods
            if (found := runs.difference(name, method))
        ],
    }


def _numbers(interval: Interval | None) -> dict[str, Any] | None:
    if interval is None:
        return None
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "count": interval.count}


def _facts(content: dict[str, Any]) -> dict[str, str]:
    known = {name: content.get(name, "") for name in ("model", "model_fingerprint", "commit")}
    known |= content.get("machine", {}) | content.get("versions", {})
    settings = {name: value for name, value in content.get("settings", {}).items() if name not in _PLACES}
    return {name: str(value) for name, value in known.items()} | _flat(settings)


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
