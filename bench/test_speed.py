"""Speed of the operations for regressions, by pytest-benchmark; two runs compare by its own tools.

python -m pytest bench --benchmark-autosave
python -m pytest bench --benchmark-compare
"""

from __future__ import annotations

import pytest
import torch

from promptkernels.bench.cases import CASES, Case, run

PAIRS = [(case, backward) for case in CASES for backward in ((False, True) if case.leaves else (False,))]


def _id(value: Case | bool) -> str:
    if isinstance(value, Case):
        return value.name
    return "forward+backward" if value else "forward"


@pytest.mark.parametrize(("case", "backward"), PAIRS, ids=_id)
def test_speed(benchmark, case, backward):
    leaves = case.leaves if backward else ()
    inputs = case.make(torch.device("cpu"))
    for name in leaves:
        inputs[name].requires_grad_()
    benchmark.group = case.name
    benchmark.extra_info.update(case.sizes, bytes_forward=case.bytes_forward, threads=torch.get_num_threads())
    benchmark.pedantic(run, (case.ours, inputs, leaves), rounds=20, warmup_rounds=3)
