"""Verify all contestants, then time them in turn, many times; report medians and pairwise ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import promptkernels as pk
from promptkernels.backends.registry import choose
from promptkernels.bench.cases import Case, Function, Inputs, incoming_gradient, run
from promptkernels.bench.floors import EMPTY, empty_kernels, floors
from promptkernels.bench.memory import peak_bytes
from promptkernels.bench.peers import COMPILED, compiled_peer, eager_peers
from promptkernels.bench.timing import Sampler, sampler

# Tolerated difference of a correct float32 form from float64. The plain Gram form of SVGD is measured, not verified.
WRONG = 0.05
OURS = "promptkernels"
FORWARD, BOTH = "forward", "forward + backward"
_SHARE = 8  # a contestant that takes longer than 1/8 of the total time is timed in fewer rounds
_FEWEST = 5


@dataclass(frozen=True)
class Measurement:
    """Measurement of one contestant on one case.

    Args:
        kind: ``ours``, ``peer`` or ``floor``.
        backend: backend that ran it, or torch.
        timing: how it was timed, and how many launches its graph has; see `promptkernels.bench.timing.Sampler`.
        median_us, p20_us, p80_us: microseconds per call.
        ratio: its time over ours, median over the rounds with both.
        error: relative root-mean-square error against float64, of the output or of all gradients together; None for a
            floor.
        peak_bytes: see `promptkernels.bench.memory.peak_bytes`.
        gigabytes_per_second: least traffic of the case over the time.
        share_of_roofline: the same over the copy bandwidth of this machine. Above 1 if the data stay in a cache.
    """

    op: str
    case: str
    sizes: dict[str, int]
    mode: str
    dtype: str
    kind: str
    contestant: str
    backend: str
    timing: str
    launches: int | None
    median_us: float
    p20_us: float
    p80_us: float
    ratio: float
    error: float | None
    peak_bytes: int
    least_bytes: int
    gigabytes_per_second: float
    share_of_roofline: float


class WrongResult(AssertionError):
    """A contestant computes something else. Nothing of its case is reported."""


@dataclass(frozen=True)
class Bench:
    """Measurement settings: device, seconds per case, torch.compile, CUDA graphs, and copy bandwidth (bytes per
    second)."""

    device: torch.device
    bandwidth: float
    seconds: float = 3.0
    compiled: bool = True
    graphs: bool = True

    def measure(self, case: Case, *, backward: bool = False) -> list[Measurement]:
        """Verify and time every contestant of a case, with about `seconds` of timing in total."""
        inputs = case.make(self.device)
        leaves = case.leaves if backward else ()
        contestants: dict[str, Function] = {OURS: case.ours, **eager_peers(case, inputs)}
        if self.compiled:
            contestants[COMPILED] = compiled_peer(case)
        for name in leaves:
            inputs[name].requires_grad_()
        gradient = incoming_gradient(case.ours, inputs) if backward else None
        errors = _errors(case, contestants, inputs, leaves, gradient)
        standards = {} if backward else floors(case, inputs)
        calls = {
            name: partial(run, function, inputs, *(() if name in standards else (leaves, gradient)))
            for name, function in {**contestants, **standards}.items()
        }
        samplers = {name: sampler(call, self.device, self.graphs) for name, call in calls.items()}
        if (launches := samplers[OURS].launches) and not backward:
            standards[EMPTY] = empty_kernels(launches, self.device)
            calls[EMPTY] = partial(run, standards[EMPTY], inputs)
            samplers[EMPTY] = sampler(calls[EMPTY], self.device)
        for name in leaves:
            inputs[name].grad = None
        memory = {name: peak_bytes(call, self.device) for name, call in calls.items()}
        times = _rounds(samplers, self.seconds)
        kinds = {name: "floor" if name in standards else "peer" for name in calls} | {OURS: "ours"}
        dtype = inputs[case.leaves[0] if case.leaves else "prompts"].dtype
        backend = choose(self.device, dtype).name
        rows = []
        for name, by_round in times.items():
            median = statistics.median(by_round.values())
            low, high = _p20_p80(list(by_round.values()))
            speed = case.least_bytes(backward) / median
            rows.append(
                Measurement(
                    op=case.op,
                    case=case.name,
                    sizes=case.sizes,
                    mode=BOTH if backward else FORWARD,
                    dtype=str(dtype).removeprefix("torch."),
                    kind=kinds[name],
                    contestant=name,
                    backend=backend if name == OURS else "torch",
                    timing=samplers[name].how,
                    launches=samplers[name].launches,
                    median_us=round(1e6 * median, 2),
                    p20_us=round(1e6 * low, 2),
                    p80_us=round(1e6 * high, 2),
                    ratio=round(statistics.median(t / times[OURS][turn] for turn, t in by_round.items()), 3),
                    error=errors.get(name),
                    peak_bytes=memory[name],
                    least_bytes=case.least_bytes(backward),
                    gigabytes_per_second=round(speed / 1e9, 2),
                    share_of_roofline=round(speed / self.bandwidth, 3),
                )
            )
        return rows

    def all_modes(self, case: Case) -> Iterator[list[Measurement]]:
        """Measure the forward pass, then forward and backward together if the case has a gradient."""
        for backward in (False, True) if case.leaves else (False,):
            torch._dynamo.reset()
            yield self.measure(case, backward=backward)


def _errors(
    case: Case,
    contestants: dict[str, Function],
    inputs: Inputs,
    leaves: tuple[str, ...],
    gradient: Tensor | None,
) -> dict[str, float]:
    """Relative error of every contestant against the reference backend in float64.

    Raises:
        WrongResult: an error is larger than rounding explains.
    """
    exact = exact_result(case, inputs, leaves, gradient)
    errors = {}
    for name, function in contestants.items():
        errors[name] = relative_error(_result(function, inputs, leaves, gradient), exact)
        if not errors[name] <= WRONG:
            what = "its gradient" if leaves else "its result"
            raise WrongResult(f"{case.name}: {name}: {what} is off by {errors[name]:.2g} (relative RMS)")
    return errors


def exact_result(case: Case, inputs: Inputs, leaves: tuple[str, ...] = (), gradient: Tensor | None = None) -> Tensor:
    """The output, or all gradients concatenated, by the reference backend in float64."""
    double = {name: t.detach().double() if t.is_floating_point() else t for name, t in inputs.items()}
    for name in leaves:
        double[name].requires_grad_()
    with pk.use_backend("reference"):
        return _result(case.ours, double, leaves, None if gradient is None else gradient.double())


def _result(function: Function, inputs: Inputs, leaves: tuple[str, ...], gradient: Tensor | None) -> Tensor:
    """The output, or all gradients concatenated."""
    out = run(function, inputs, leaves, gradient)
    if gradient is None:
        return out
    return torch.cat([inputs[name].grad.flatten() for name in leaves])


def relative_error(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact).norm() / exact.norm())


def _p20_p80(values: list[float]) -> tuple[float, float]:
    quantiles = statistics.quantiles(values, n=5) if len(values) > 1 else values * 4
    return quantiles[0], quantiles[3]


def _rounds(samplers: dict[str, Sampler], seconds: float) -> dict[str, dict[int, float]]:
    """Seconds per call of every contestant, by round.

    A round times all contestants one after the other, and every second round in reverse order, so that changes of the
    machine's speed affect all of them. A very slow contestant takes part only in a few rounds, spread evenly.
    """
    first = {name: one.take() for name, one in samplers.items()}
    slow = {name for name, once in first.items() if name != OURS and once > seconds / _SHARE}
    cost = sum(max(2e-3, once) for name, once in first.items() if name not in slow)
    rounds = max(7, min(200, round(seconds / cost)))
    times: dict[str, dict[int, float]] = {name: {} for name in samplers}
    for turn in range(rounds):
        order = list(samplers) if turn % 2 == 0 else list(reversed(samplers))
        for name in order:
            if name not in slow or turn % max(1, rounds // _FEWEST) == 0:
                times[name][turn] = samplers[name].take()
    return times
