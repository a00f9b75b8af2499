"""Data for the pictures of a run, from its histories: mean over seeds, thinned to what a picture can show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np

from prompttransfer.report.results import Results
from prompttransfer.training.history import History

_POINTS = 150

Series = list[tuple[float, float]]


@dataclass(frozen=True)
class GroupLog:
    """The merged sources, by update.

    Attributes:
        edges: first update of every column, and the update after the last one.
        shares: fraction of the seeds in every column, by source.
    """

    edges: list[float]
    shares: dict[str, list[float]]


@dataclass(frozen=True)
class Trace:
    """The histories of one method on one target.

    Attributes:
        loss: loss on the target's rows, by update.
        particles: mean_distance and bandwidth, by update of the source stage.
        similarity: names of tasks and cosines (T, T) of their task vectors.
        attention: weight by source.
    """

    loss: Series = field(default_factory=list)
    particles: dict[str, Series] = field(default_factory=dict)
    groups: GroupLog | None = None
    similarity: tuple[list[str], np.ndarray] | None = None
    attention: dict[str, float] = field(default_factory=dict)


def read_traces(results: Results) -> dict[tuple[str, str], Trace]:
    """Traces by method and target. Every history is read once."""
    return {
        (method, target): trace_of(results.histories(method, target))
        for method in results.methods
        for target in results.targets
    }


def trace_of(histories: Sequence[History]) -> Trace:
    """Mean over the histories of several seeds."""

    def logged(name: str) -> list[Any]:
        return [history[name] for history in histories if history.get(name)]  # type: ignore[literal-required]

    particles, groups, similarities, attentions = map(logged, ("particles", "groups", "similarity", "attention"))
    similarity = None
    if similarities:
        matrices = np.array([entry["matrix"] for entry in similarities], dtype=float)
        similarity = (similarities[0]["names"], matrices.mean(axis=0))
    return Trace(
        loss=mean_series(logged("loss")),
        particles={
            name: mean_series([entry.get(name, []) for entry in particles])
            for name in ("mean_distance", "bandwidth")
            if particles
        },
        groups=_group_log(groups) if groups else None,
        similarity=similarity,
        attention={name: fmean(entry[name] for entry in attentions) for name in attentions[0]} if attentions else {},
    )


def mean_series(logs: Sequence[Sequence[Sequence[float]]], points: int = _POINTS) -> Series:
    """Mean over logs of (update, value), with neighbours averaged to get at most `points` points."""
    values: dict[float, list[float]] = {}
    for log in logs:
        for update, value in log:
            values.setdefault(update, []).append(value)
    series = [(update, fmean(sample)) for update, sample in sorted(values.items())]
    width = -(-len(series) // points)
    if width <= 1:
        return series
    bins = [series[first : first + width] for first in range(0, len(series), width)]
    return [(fmean(update for update, _ in part), fmean(value for _, value in part)) for part in bins]


def _group_log(logs: Sequence[Sequence[Any]]) -> GroupLog:
    length = min(map(len, logs))
    names = list(dict.fromkeys(name for log in logs for _, group in log for name in group))
    chosen = np.zeros((length, len(names)))
    for log in logs:
        for place, (_, group) in enumerate(log[:length]):
            chosen[place, [names.index(name) for name in group]] += 1 / len(logs)
    width = -(-length // _POINTS)
    starts = range(0, length, width)
    updates = [float(update) for update, _ in logs[0][:length]]
    columns = [chosen[first : first + width].mean(axis=0) for first in starts]
    return GroupLog(
        edges=[*(updates[first] for first in starts), updates[-1] + 1],
        shares={name: [float(column[place]) for column in columns] for place, name in enumerate(names)},
    )
