"""Triton: the suite under its interpreter, and when the backend is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from cases import assert_close, rand

import promptkernels as pk
from promptkernels.backends import triton as backend_module

ROOT = Path(__file__).parents[2]
SUITE = [
    f"tests/ops/test_{name}.py"
    for name in ("oracle", "autograd", "degenerate", "errors", "formulas", "sign_flip", "triton")
]
# Finite differences take hundreds of calls; gradients are compared with the reference's instead.
TOO_MANY_CALLS = [
    f"tests/ops/test_autograd.py::test_{name}"
    for name in ("task_similarity", "svgd_direction", "compose_prepend", "merge_task_vectors")
]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**inherited, **environment}, capture_output=True, text=True
    )


@pytest.mark.emulation
@pytest.mark.slow
@pytest.mark.skipif(backend_module.INTERPRETED, reason="this is the run under the interpreter")
def test_operations_under_the_interpreter():
    triton = pytest.importorskip("triton")
    if triton.__version__.startswith("3.6.") and numpy.lib.NumpyVersion(numpy.__version__) >= "2.4.0":
        pytest.skip("Triton 3.6's interpreter does not work with NumPy 2.4")
    deselected = [f"--deselect={name}" for name in TOO_MANY_CALLS]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-k", "triton] or triton-"]
    done = run("-m", "pytest", *options, *deselected, *SUITE, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("rows", [65, 130])
def test_more_rows_than_one_tile_holds(backend, rows):
    """The small matrices of Triton's kernels are tiles of one program, of at most 64 rows."""
    particles, scores = rand(rows, 2, 3), rand(rows, 2, 3, seed=1)
    similarity = pk.task_similarity(particles)
    got = pk.svgd_direction(particles, scores), similarity, pk.select_group(similarity, 3)
    with pk.use_backend("reference"):
        want = (
            pk.svgd_direction(particles.double(), scores.double()),
            pk.task_similarity(particles.double()),
            pk.select_group(similarity, 3),
        )
    assert_close(got[0], want[0], 1e-5)
    assert_close(got[1], want[1], 1e-5)
    assert torch.equal(got[2], want[2])


@pytest.mark.skipif(not backend_module.INTERPRETED, reason="on a GPU every test of float32 takes this way")
def test_products_split_for_tensor_cores_are_as_accurate(backend, monkeypatch):
    """The interpreter does not round to TF32, but it adds up the same parts; inf and NaN pass through."""
    from promptkernels.backends.triton_kernels import gram

    monkeypatch.setattr(gram, "splits", lambda acc, device: acc == torch.float32)
    for rows in (3, 30, 60):
        particles, scores = rand(rows, 5, 48), rand(rows, 5, 48, seed=1)
        with pk.use_backend("reference"):
            want = pk.task_similarity(particles.double()), pk.svgd_direction(particles.double(), scores.double())
        assert_close(pk.task_similarity(particles), want[0], 1e-5)
        assert_close(pk.svgd_direction(particles, scores), want[1], 1e-5)
    particles[1, 2, 3], particles[2, 0, 0] = float("inf"), float("nan")
    with pk.use_backend("reference"):
        want = pk.task_similarity(particles, metric="token_mean_dot")
    got = pk.task_similarity(particles, metric="token_mean_dot")
    assert torch.equal(got.isnan(), want.isnan()) and torch.equal(got.isinf(), want.isinf())


def test_the_package_does_not_import_triton():
    code = "import torch, sys; before = set(sys.modules); import promptkernels; new = set(sys.modules) - before; "
    code += "print([m for m in new if m == 'triton' or 'triton_kernels' in m])"
    assert run("-c", code).stdout.strip() == "[]"


REASON = "import promptkernels as pk; s = pk.backends()['triton']; print(s.available, s.reason, s.devices)"


@pytest.mark.skipif(torch.cuda.is_available() or torch.xpu.is_available(), reason="there is a GPU")
def test_without_gpu_or_interpreter_the_reason_says_what_is_missing():
    pytest.importorskip("triton")
    output = run("-c", REASON).stdout
    assert output.startswith("False") and "no GPU" in output and "TRITON_INTERPRET=1" in output
    forced = run(
        "-c", "import torch, promptkernels as pk; pk.task_similarity(torch.eye(3))", PROMPTKERNELS_BACKEND="triton"
    )
    assert forced.returncode != 0 and "TRITON_INTERPRET=1" in forced.stderr and "reference: can run" in forced.stderr


def test_a_missing_or_broken_triton_is_a_reason_not_a_failure(tmp_path):
    missing = run("-c", "import sys; sys.modules['triton'] = None; " + REASON)
    assert missing.stdout.startswith("False the package triton is not installed")
    (tmp_path / "triton.py").write_text("raise OSError('libtriton.so: no such file')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    broken = run("-c", REASON, PYTHONPATH=path, TRITON_INTERPRET="1")
    assert broken.stdout.startswith("False triton does not work here: OSError: libtriton.so: no such file")


def test_interpreted_it_runs_on_request_only():
    pytest.importorskip("triton")
    code = (
        "import torch; from promptkernels.backends import registry; print(registry.choose('cpu', torch.float32).name); "
    )
    code += "registry.set_backend('triton'); print(registry.choose('cpu', torch.float32).name)"
    first, forced = run("-c", code, TRITON_INTERPRET="1").stdout.split()
    assert first != "triton" and forced == "triton"
