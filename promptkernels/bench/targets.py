"""The speed targets, and the results of a run for each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from promptkernels.bench.floors import EMPTY
from promptkernels.bench.measure import BOTH, FORWARD, OURS, Measurement
from promptkernels.bench.peers import COMPILED

LARGE_BYTES = 256e6

Where = Callable[[Measurement], bool]


@dataclass(frozen=True)
class Target:
    """One target.

    Args:
        subject: description of the measured quantity.
        against: description of the rows to compare with.
        wanted: the bound.
        rows: selects the rows.
        value: the value of a row to compare with the bound.
        at_most: whether the bound is an upper one.
        mean: whether the geometric mean over the rows must meet the bound; if false, the worst row must.
        unit: printed after the numbers.
    """

    subject: str
    against: str
    wanted: float
    rows: Where
    value: Callable[[Measurement], float] = lambda row: row.ratio
    at_most: bool = False
    mean: bool = False
    unit: str = " x"


@dataclass(frozen=True)
class Outcome:
    target: Target
    got: float
    case: str
    met: bool


def outcomes(rows: Sequence[Measurement], device_type: str) -> Iterator[Outcome]:
    """Outcomes of a run on this type of device, for the targets that it has rows for."""
    for target in CPU if device_type == "cpu" else GPU:
        values = {f"{row.case}, {row.mode}": target.value(row) for row in rows if target.rows(row)}
        if not values:
            continue
        if target.mean:
            got, case = geometric_mean(values.values()), f"{len(values)} cases"
        else:
            case = (max if target.at_most else min)(values, key=values.__getitem__)
            got = values[case]
        yield Outcome(target, got, case, got <= target.wanted if target.at_most else got >= target.wanted)


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def _peer(op: str, mode: str, contestant: str, where: Where = lambda row: True) -> Where:
    return lambda row: row.op == op and row.mode == mode and row.contestant.startswith(contestant) and where(row)


def _few_prompts(row: Measurement) -> bool:
    return row.sizes["T"] <= 16


def _many_prompts(row: Measurement) -> bool:
    return not _few_prompts(row)


def _long(row: Measurement) -> bool:
    return row.sizes["L"] >= 100


def _short(row: Measurement) -> bool:
    return not _long(row)


def _compiled(row: Measurement) -> bool:
    return row.contestant == COMPILED


def _of_floor(row: Measurement) -> float:
    return 1 / row.ratio


def _svgd_error(contestant: str) -> Where:
    return lambda row: row.op == "svgd" and row.contestant == contestant


ACCURACY = Target(
    "SVGD direction, particles 1 % apart: error",
    "float64",
    1e-6,
    _svgd_error(OURS),
    value=lambda row: row.error or 0.0,
    at_most=True,
    unit="",
)

CPU = (
    Target("cosine, forward, T <= 16", "normalise + matmul", 4, _peer("similarity", FORWARD, "norm", _few_prompts)),
    Target("cosine, forward, T >= 32", "normalise + matmul", 2, _peer("similarity", FORWARD, "norm", _many_prompts)),
    Target("cosine, both, T <= 16", "normalise + matmul", 4, _peer("similarity", BOTH, "norm", _few_prompts)),
    Target("cosine, both, T >= 32", "normalise + matmul", 2, _peer("similarity", BOTH, "norm", _many_prompts)),
    Target("SVGD direction", "centred Gram", 2.5, _peer("svgd", FORWARD, "centred Gram")),
    Target("compose, forward", "PEFT", 4, _peer("compose", FORWARD, "PEFT")),
    Target("compose, forward", "write output", 1.3, _peer("compose", FORWARD, "write"), _of_floor, at_most=True),
    Target("prepend, forward, L = 100", "PEFT + cat", 2, _peer("prepend", FORWARD, "PEFT", _long)),
    Target("prepend, forward, L = 20", "PEFT + cat", 3.5, _peer("prepend", FORWARD, "PEFT", _short)),
    Target("prepend, forward", "plain copy", 1.3, _peer("prepend", FORWARD, "plain"), _of_floor, at_most=True),
    Target("compose, both, L = 100", "PEFT", 3, _peer("compose", BOTH, "PEFT", _long)),
    Target("compose, both, L = 20", "PEFT", 4, _peer("compose", BOTH, "PEFT", _short)),
    Target("prepend, both, L = 100", "PEFT + cat", 3, _peer("prepend", BOTH, "PEFT", _long)),
    Target("prepend, both, L = 20", "PEFT + cat", 4, _peer("prepend", BOTH, "PEFT", _short)),
    Target("DTVG step", "pair calls, as published", 50, _peer("group", FORWARD, "pair calls")),
    Target("DTVG step", "eager", 3, _peer("group", FORWARD, "eager")),
    Target("every case", COMPILED, 1, _compiled),
    Target("every case, geometric mean", COMPILED, 1.5, _compiled, mean=True),
    ACCURACY,
)

GPU = (
    Target(
        f"forward of {LARGE_BYTES / 1e6:.0f} MB and more: share of the copy bandwidth",
        "copy in the same run",
        0.85,
        lambda row: row.kind == "ours" and row.mode == FORWARD and row.least_bytes >= LARGE_BYTES,
        value=lambda row: row.share_of_roofline,
        unit="",
    ),
    Target(
        "small cases in a replayed graph",
        f"{EMPTY}, as many launches",
        2,
        lambda row: row.contestant == EMPTY and row.least_bytes < LARGE_BYTES,
        _of_floor,
        at_most=True,
    ),
    Target("every case", COMPILED, 1, _compiled),
    Target(
        "every case, geometric mean",
        "eager forms",
        3,
        lambda row: row.kind == "peer" and row.contestant != COMPILED,
        mean=True,
    ),
    ACCURACY,
)
