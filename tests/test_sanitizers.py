"""The CPU kernels under AddressSanitizer and UBSan, and on several threads under ThreadSanitizer.

A stray access, undefined behaviour or a data race ends the test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native_build import ROOT, SANITIZE, build_module, run_pytest, sanitized_environment

from promptkernels.backends import cpu

pytestmark = [
    pytest.mark.native,
    pytest.mark.slow,
    pytest.mark.skipif(cpu.why_unavailable() is not None, reason=str(cpu.why_unavailable())),
]


@pytest.fixture(scope="module")
def module() -> Path:
    return build_module("cpu", SANITIZE)


@pytest.mark.parametrize("level", ["baseline", "avx2", "avx512"])
def test_operations(module, level):
    before = cpu.facts()["isa"]
    try:
        cpu._C.choose_isa(level)
    except ValueError as error:
        pytest.skip(str(error))
    finally:
        cpu._C.choose_isa(before)
    suite = [f"tests/ops/test_{name}.py" for name in ("oracle", "sizes", "layouts", "types", "degenerate", "errors")]
    done = run_pytest(
        [*suite, "-k", "cpu", "-m", "not large"],
        {"promptkernels._C_cpu": module},
        sanitized=True,
        PROMPTKERNELS_CPU=level,
    )
    assert done.returncode == 0, done.stdout[-8000:]


def test_module_by_itself(module):
    """All instruction sets, one to three threads, alignment, rounding."""
    suite = ["tests/test_native.py", "-k", "instruction_set_agrees or same_bits or 16_bit or alignment"]
    done = run_pytest(suite, {"promptkernels._C_cpu": module}, sanitized=True)
    assert done.returncode == 0, done.stdout[-8000:]


def test_any_input(module):
    """Drawn calls of the public functions and of the raw operations, right and spoiled ones."""
    suite = ["tests/test_fuzz.py", "-k", "test_target and operations"]
    done = run_pytest(suite, {"promptkernels._C_cpu": module}, sanitized=True)
    assert done.returncode == 0, done.stdout[-8000:]


def test_a_read_past_the_end_is_reported(module):
    """The tests above rely on this: the loaded module is the sanitized one and sees torch's allocations."""
    code = f"""
import sys, torch
sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from native_build import load_module
module = load_module("promptkernels._C_cpu", Path({str(module)!r}))
similarity, chosen = torch.eye(5), torch.empty(6, dtype=torch.bool)
module.select_group(similarity.data_ptr(), False, 6, 0, chosen.data_ptr(), 1)
"""
    done = subprocess.run([sys.executable, "-c", code], env=sanitized_environment(), capture_output=True, text=True)
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr and "select_group" in done.stderr


one_process = pytest.mark.xdist_group("threads")  # compiles the program once


@pytest.fixture(scope="module")
def threads(tmp_path_factory) -> Path:
    """A program of the kernels and of threads that ThreadSanitizer understands; see the head of its source."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs Linux and a compiler")
    path, cpu_sources = tmp_path_factory.mktemp("threads") / "threads", ROOT / "csrc" / "cpu"
    sources = [file for file in sorted(cpu_sources.rglob("*.cpp")) if file.parent.name in ("cpu", "simd")]
    command = [compiler, "-std=c++20", "-O1", "-g1", "-fsanitize=thread", "-rdynamic", "-DPK_ISA=baseline", "-w"]
    command += [f"-I{ROOT / 'csrc' / 'include'}", str(ROOT / "tests" / "cpu_threads.cpp"), *map(str, sources)]
    done = subprocess.run([*command, "-o", str(path), "-ldl", "-pthread"], capture_output=True, text=True)
    if "cannot find" in done.stderr and "tsan" in done.stderr:
        pytest.skip(f"{compiler} has no ThreadSanitizer")
    assert done.returncode == 0, done.stderr
    return path


@one_process
def test_no_data_races_and_the_same_bits(threads):
    """Every kernel with 1, 2, 3 and 8 threads, and with two callers at once."""
    done = subprocess.run([threads], capture_output=True, text=True)
    assert done.returncode == 0 and "ThreadSanitizer" not in done.stderr, done.stdout + done.stderr[-8000:]


@one_process
def test_a_data_race_is_reported(threads):
    done = subprocess.run([threads, "race"], capture_output=True, text=True)
    assert "ThreadSanitizer: data race" in done.stderr
