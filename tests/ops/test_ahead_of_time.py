"""Every Triton kernel compiled for GPUs that are not here: fits their shared memory, and spills no registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from promptkernels.backends import triton as backend_module

# Bytes of shared memory that a block can have.
SHARED = {
    ("cuda", "80"): 163 << 10,
    ("cuda", "89"): 99 << 10,
    ("cuda", "90"): 227 << 10,
    ("cuda", "100"): 227 << 10,
    ("cuda", "120"): 99 << 10,
    ("hip", "gfx942"): 64 << 10,
}
SHORT = [("cuda", "90"), ("hip", "gfx942")]  # with few sizes, in CI
KERNELS = {
    "gram_kernel", "mix_kernel", "token_mean_kernel", "finish_kernel", "weights_kernel",
    "gradient_kernel", "kernel_matrix_kernel", "backward_weights_kernel", "compose_kernel", "task_sums_kernel",
    "factor_gradients_kernel", "merge_kernel", "backward_kernel", "weights_gradient_kernel", "select_kernel",
}  # fmt: skip
FEW_ROWS = 32  # spills are an error up to here
ALLOWED = 32  # bytes per thread: a few registers, which the assembler of one GPU spills and that of another does not


@pytest.mark.skipif(backend_module.INTERPRETED, reason="interpreted kernels are not compiled")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "arch", "extent"),
    [(*target, "short") for target in SHORT]
    + [pytest.param(*target, "whole", marks=pytest.mark.nightly) for target in SHARED],
)
def test_kernels_compile_for_a_gpu_that_is_not_here(kind, arch, extent):
    pytest.importorskip("triton")
    script = Path(__file__).with_name("ahead_of_time.py")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, str(script), kind, arch, extent]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["kernel"] for one in compiled} == KERNELS
    types = {name for one in compiled for name in one["types"]}
    assert {str(t)[6:] for t in (torch.float32, torch.float64, torch.bfloat16, torch.float16)} <= types
    too_large = [one for one in compiled if one["shared"] > SHARED[kind, arch]]
    assert not too_large, json.dumps(too_large, indent=1)
    spilled = [one for one in compiled if one["rows"] <= FEW_ROWS and one["spilled"] > ALLOWED]
    assert not spilled, json.dumps(spilled, indent=1)
    if kind == "cuda":
        products = [one for one in compiled if one["meta"].get("split") == "True"]
        assert {one["kernel"] for one in products} == {"gram_kernel", "mix_kernel", "gradient_kernel"}
        # One number at a time, in either way, took 27 times as long as reading the rows.
        slow = [one for one in products if not one["tensor_cores"] or not one["wide_loads"]]
        assert not slow, json.dumps(slow, indent=1)
