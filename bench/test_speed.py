"""Speed regressions of the operations, with pytest-benchmark, whose own tools compare two runs.

python -m pytest bench --benchmark-autosave
python -m pytest bench --benchmark-compare
"""

from __future__ import annotations

import pytest
import torch

from promptkernels.bench.cases import CASES, Case, incoming_gradient, run

PAIRS = [(case, backward) for case in CASES for backward in ((False, True) if case.leaves else (False,))]


def _id(value: Case | bool) -> str:
    if isinstance(value, Case):
        return value.name
    return "forward+backward" if value else "forward"


@pytest.mark.parametrize(("case", "backward"), PAIRS, ids=_id)
def test_speed(benchmark, case, backward):
    inputs = case.make(torch.device("cpu"))
    leaves = case.leaves if backward else ()
    for name in leaves:
        inputs[name].requires_grad_()
    gradient = incoming_gradient(case.ours, inputs) if backward else None
    benchmark.group = case.name
    benchmark.extra_info.update(case.sizes, least_bytes=case.least_bytes(backward), threads=torch.get_num_threads())
    benchmark.pedantic(run, (case.ours, inputs, leaves, gradient), rounds=20, warmup_rounds=3)
