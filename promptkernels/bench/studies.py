"""Two studies in addition to the cases: time by prompt size, and the error of SVGD by spread of the particles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from promptkernels.bench.cases import randn, similarity, svgd
from promptkernels.bench.measure import OURS, Bench, Measurement, exact_result, relative_error
from promptkernels.bench.peers.svgd import centred_gram, plain_gram

SWEEP_ROWS, SWEEP_LENGTH = 16, 100
SWEEP_HIDDEN = (16, 64, 256, 768, 1024, 4096)
SPREADS = tuple(10.0**exponent for exponent in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0))
SPREAD_SHAPE = (16, 100, 768)


def sweep(bench: Bench) -> Iterator[list[Measurement]]:
    """Forward passes of 16 prompts of 100 tokens at growing hidden sizes; without torch.compile, because compilation
    would take most of the time."""
    bench = replace(bench, compiled=False)
    for make in (similarity, svgd):
        for hidden in SWEEP_HIDDEN:
            yield bench.measure(make(SWEEP_ROWS, SWEEP_LENGTH, hidden))


@dataclass(frozen=True)
class SpreadError:
    """Relative error of one form of SVGD at one spread; None if the result is not a number."""

    spread: float
    contestant: str
    error: float | None


def spread_errors(device: torch.device) -> list[SpreadError]:
    """Error of the SVGD direction for particles at a distance from their common start of `spread` times its norm."""
    case = svgd(*SPREAD_SHAPE)
    forms = {OURS: case.ours, "centred Gram": centred_gram, "plain Gram": plain_gram}
    start, scores = randn(device, 0, *SPREAD_SHAPE[1:]), randn(device, 2, *SPREAD_SHAPE)
    rows = []
    for spread in SPREADS:
        inputs = {"start": start, "prompts": start + spread * randn(device, 1, *SPREAD_SHAPE), "scores": scores}
        exact = exact_result(case, inputs)
        for name, form in forms.items():
            error = relative_error(form(inputs), exact)
            rows.append(SpreadError(spread, name, error if error < float("inf") else None))
    return rows
