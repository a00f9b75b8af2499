"""Features of the CUDA kernels alone: how the work of large and small inputs is split into blocks."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from cases import assert_close, ids, rand

from promptkernels import reference

pytestmark = [pytest.mark.emulation, pytest.mark.slow]


@pytest.fixture
def operations(emulated_backend):
    return SimpleNamespace(**emulated_backend.functions)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(rows, columns) for rows in (3, 16, 32) for columns in (3 * 1024, 5461)]
    + [(64, 3 * 1024), pytest.param(64, 5461, marks=pytest.mark.nightly)],
)
def test_many_blocks(operations, rows, columns, dtype):
    """Every Gram kernel by number of rows, with more blocks than one bundle holds; in packs and element by element."""
    prompts, scores = rand(rows, 2, columns, dtype=dtype), rand(rows, 2, columns, seed=1, dtype=dtype)
    start, scale = rand(2, columns, seed=2, dtype=dtype), rand(rows, 2, seed=3, dtype=dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    arguments = prompts, start, None, scale, "cosine", 1e-8
    got = operations.task_similarity(*arguments)
    want = reference.task_similarity(*(a.double() if torch.is_tensor(a) else a for a in arguments))
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, tolerance)
    got = operations.task_similarity_z(prompts, start, None, scale, 1e-8)
    want = reference.task_similarity_z(prompts.double(), start.double(), None, scale.double(), 1e-8)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, tolerance)
    got = operations.svgd_direction(prompts, scores, 0.0, "liu2016", False)
    want = reference.svgd_direction(prompts.double(), scores.double(), 0.0, "liu2016", False)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, tolerance)


@pytest.mark.parametrize(("tasks", "dtype"), [(2, torch.float32), (5, torch.bfloat16)], ids=str)
def test_long_prompts(operations, tasks, dtype):
    """So many tokens that a thread handles several and a block several tasks; fewer and more rows than tasks."""
    batch, length, hidden, rank = 3, 8500, 64, 3
    factors = rand(length, hidden), rand(tasks, length, rank, seed=1), rand(tasks, rank, hidden, seed=2)
    task_ids = ids(batch, tasks)
    grad = rand(batch, length, hidden, seed=3).to(dtype)
    exact = [f.double() for f in factors]
    got = operations.compose_prompts(*factors, task_ids)
    assert_close(got, reference.compose_prompts(*exact, task_ids), 1e-6)
    got = operations.compose_prompts_backward(grad, *factors, task_ids)
    want = reference.compose_prompts_backward(grad.double(), *exact, task_ids)
    for one, other in zip(got, want, strict=True):
        assert_close(one, other, 1e-6)


def test_task_id_out_of_range_is_a_device_side_assertion(emulated_backend):
    """It ends the process, as on a GPU."""
    code = """
import emulated, torch
backend = emulated.make_backend()
backend.functions["compose_prompts"](torch.ones(2, 3), torch.ones(3, 2, 1), torch.ones(3, 1, 3), torch.tensor([0, 3]))
"""
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "task_ids holds a value outside" in done.stderr, done.stderr
