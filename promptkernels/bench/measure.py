"""Verification, then timing: all contestants in turn, many times, medians and pairwise ratios."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

import promptkernels as pk
from promptkernels.bench.cases import Case, Function, Inputs, run
from promptkernels.bench.peers import peers

# What a correct float32 form may differ from float64; the plain Gram form of SVGD is measured, not verified.
WRONG = 0.05
OURS = "promptkernels"


@dataclass(frozen=True)
class Measurement:
    """Times in microseconds; ratio: time of this contestant over ours, median over the rounds."""

    op: str
    case: str
    sizes: dict[str, int]
    mode: str
    contestant: str
    median_us: float
    p20_us: float
    p80_us: float
    ratio: float
    error: float
    gigabytes_per_second: float


class WrongResult(AssertionError):
    """A contestant does not compute the operation; nothing of its case is reported."""


def measure(case: Case, *, backward: bool, device: torch.device, seconds: float, compiled: bool) -> list[Measurement]:
    """Verify and time every contestant of a case; about `seconds` of timing in all."""
    leaves = case.leaves if backward else ()
    contestants: dict[str, Function] = {OURS: case.ours, **peers(case, compiled)}
    inputs = case.make(device)
    exact = _exact(case, inputs)
    errors = {}
    for name, function in contestants.items():
        with torch.no_grad():
            errors[name] = _relative_error(function(inputs), exact)
        if not errors[name] <= WRONG:
            raise WrongResult(f"{case.name}: {name} is off by {errors[name]:.2g} (relative RMS)")
    for name in leaves:
        inputs[name].requires_grad_()
    times = _times(contestants, inputs, leaves, seconds)
    rows = []
    for name, values in times.items():
        median = statistics.median(values)
        quantiles = statistics.quantiles(values, n=5) if len(values) > 1 else [median] * 4
        ratio = statistics.median(theirs / ours for theirs, ours in zip(values, times[OURS], strict=True))
        rows.append(
            Measurement(
                case.op,
                case.name,
                case.sizes,
                "forward + backward" if leaves else "forward",
                name,
                *(round(1e6 * value, 2) for value in (median, quantiles[0], quantiles[3])),
                ratio=round(ratio, 3),
                error=errors[name],
                gigabytes_per_second=round(case.bytes_forward / median / 1e9, 2),
            )
        )
    return rows


def _exact(case: Case, inputs: Inputs) -> Tensor:
    """The operation in float64 by the reference backend."""
    double = {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}
    with torch.no_grad(), pk.use_backend("reference"):
        return case.ours(double)


def _relative_error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


def _times(
    contestants: dict[str, Function], inputs: Inputs, leaves: tuple[str, ...], seconds: float
) -> dict[str, list[float]]:
    """Seconds per call of every contestant, round by round."""
    calls = {}
    for name, function in contestants.items():
        for _ in range(3):
            once = _time(function, inputs, leaves, 1)
        calls[name] = max(1, round(2e-3 / once))  # a sample of two milliseconds at least
    round_cost = sum(max(2e-3, _time(contestants[n], inputs, leaves, calls[n]) * calls[n]) for n in contestants)
    rounds = max(7, min(200, round(seconds / round_cost)))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, function in contestants.items():
            times[name].append(_time(function, inputs, leaves, calls[name]))
    return times


def _time(function: Function, inputs: Inputs, leaves: tuple[str, ...], calls: int) -> float:
    device = next(iter(inputs.values())).device
    if device.type == "cuda":
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            run(function, inputs, leaves)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls
    start = time.perf_counter()
    for _ in range(calls):
        run(function, inputs, leaves)
    return (time.perf_counter() - start) / calls


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of a plain copy of 256 MB."""
    source = torch.empty(64 << 20, device=device).normal_()
    target = torch.empty_like(source)
    inputs = {"source": source}
    best = min(_time(lambda x: target.copy_(x["source"]), inputs, (), 1) for _ in range(9))
    return 2 * source.numel() * 4 / best
