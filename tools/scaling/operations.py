"""Time of the operations alone, from few rows to a thousand, and its growth."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

import promptkernels as pk
from promptkernels.bench.cases import compose, group, randn, run, similarity, svgd
from promptkernels.bench.timing import sampler

LENGTH, HIDDEN = 20, 768


def measured(largest: int, rounds: int) -> list[dict[str, Any]]:
    """Measure each operation at the sizes 4, 16, 64, ... up to the largest, with the exponent of the last step."""
    rows = []
    for name, of in _calls().items():
        sizes = [4**power for power in range(1, 9) if 4**power <= largest]
        seconds = []
        for size in sizes:
            timed = sampler(of(size), torch.device("cpu"))
            seconds.append(median(timed.take() for _ in range(rounds)))
        grows = math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2]) if len(sizes) > 1 else None
        rows.append({"operation": name, "sizes": sizes, "seconds": seconds, "exponent": grows})
    return rows


def _calls() -> dict[str, Callable[[int], Callable[[], object]]]:
    cpu = torch.device("cpu")

    def case(of: Callable[[int], Any]) -> Callable[[int], Callable[[], object]]:
        def build(size: int) -> Callable[[], object]:
            one = of(size)
            inputs = one.make(cpu)
            return lambda: run(one.ours, inputs)

        return build

    def one_with_all(size: int) -> Callable[[], object]:
        prompts, start = randn(cpu, 1, size, LENGTH, HIDDEN), randn(cpu, 0, LENGTH, HIDDEN)
        return lambda: pk.task_similarity(prompts, start, prompts[:1])

    def grouping(size: int) -> Callable[[], object]:
        values = randn(cpu, 1, size, size).abs()  # every source in the ranking: the most work
        return lambda: pk.select_group(values, size - 1)

    return {
        "task_similarity, all pairs of T": case(lambda size: similarity(size, LENGTH, HIDDEN)),
        "task_similarity, one with T": one_with_all,
        "svgd_direction of M": case(lambda size: svgd(size, LENGTH, HIDDEN)),
        "compose_prompts of B rows": case(lambda size: compose(size, 8, LENGTH, HIDDEN, 0, 1)),
        "DTVG's grouping and merge of K": case(lambda size: group(size, LENGTH, HIDDEN)),
        "select_group alone, of K": grouping,
    }
