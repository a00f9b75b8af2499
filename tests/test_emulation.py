"""The emulation in which the CUDA kernels run without a GPU: it computes what a GPU would, and refuses what it would.

The kernels themselves run in it under AddressSanitizer and UBSan; that a wrong kernel then fails is shown on tiny ones.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from native_build import ROOT, SANITIZE, build_module, run_pytest

pytestmark = [pytest.mark.native, pytest.mark.emulation, pytest.mark.slow]
one_process = pytest.mark.xdist_group("emulation")  # compiles the program once


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        pytest.skip("no C++ compiler was found")
    path = tmp_path_factory.mktemp("emulation") / "kernels"
    folder = ROOT / "csrc" / "cuda" / "emulation"
    command = [compiler, "-std=c++20", "-O1", "-g1", f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    command += [f"-I{folder}", str(folder / "scheduler.cpp"), "-x", "c++", str(ROOT / "tests" / "emulation_kernels.cu")]
    done = subprocess.run([*command, "-o", str(path)], capture_output=True, text=True)
    if "cannot find" in done.stderr and "asan" in done.stderr:
        pytest.skip("the compiler has no AddressSanitizer")
    assert done.returncode == 0, done.stderr
    return path


def run(program: Path, case: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, case], capture_output=True, text=True, timeout=60)


@one_process
@pytest.mark.parametrize("case", ["sums", "votes of a short warp", "limits", "race shows"])
def test_what_a_gpu_does(program, case):
    done = run(program, case)
    assert done.returncode == 0, done.stderr


@one_process
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("early return", "not all threads reach the same __syncthreads: thread 0 waits at"),
        ("two barriers", "not all threads reach the same __syncthreads: thread 0 waits at"),
        ("past the end", "AddressSanitizer: heap-buffer-overflow"),
        ("past shared memory", "AddressSanitizer: global-buffer-overflow|index 8 out of bounds"),
        ("misaligned", "misaligned address"),
        ("assertion", "thread beyond the limit"),
    ],
)
def test_what_ends_a_wrong_kernel(program, case, message):
    done = run(program, case)
    assert done.returncode != 0
    assert any(part in done.stderr for part in message.split("|")), done.stderr


@pytest.mark.parametrize(
    "suite",
    ["sizes", "degenerate", *(pytest.param(suite, marks=pytest.mark.nightly) for suite in ("layouts", "types"))],
)
def test_operations_under_sanitizers(suite):
    modules = {"promptkernels._C_cuda_emulated": build_module("cuda_emulated", SANITIZE)}
    done = run_pytest([f"tests/ops/test_{suite}.py", "-k", "emulated"], modules, sanitized=True)
    assert done.returncode == 0, done.stdout[-8000:]
