"""Triton: the suite under its interpreter, the kernels compiled for GPUs that are not here, and when it steps aside."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from cases import assert_close, hadamard, rand

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
    """130: the small matrices of Triton's kernels do not fit one program any more."""
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


def operations(dtype: torch.dtype) -> None:
    """Every raw operation once, with every optional argument."""
    from promptkernels.backends import triton_kernels as tk

    prompts, others, scale = rand(6, 100, 768, dtype=dtype), rand(4, 100, 768, dtype=dtype), rand(6, 100, dtype=dtype)
    weights, reference = rand(6, dtype=dtype), rand(100, 768, dtype=dtype)
    for metric in ("cosine", "token_mean_cosine"):
        for rows in (None, others):
            saved = tk.task_similarity(prompts, reference, rows, scale, metric, 1e-8)
            needs = [True, True, rows is not None, True]
            tk.task_similarity_backward(saved[0], prompts, reference, rows, scale, metric, 1e-8, *saved, needs)
    for rows in (None, others):
        tk.task_similarity_z(prompts, reference, rows, scale, 1e-8)
    for convention in ("fixed", "liu2016", "numpyro", "blackjax"):
        phi, kernel, h = tk.svgd_direction(prompts, prompts, 1.0, convention, False)
    tk.svgd_direction_backward(phi, prompts, prompts, kernel, h, False)
    shared, u, v, task_ids, embeds = hadamard((4, 8, 100, 2, 768, 9), dtype)
    task_ids.zero_()
    tk.compose_prompts(shared, u, v, task_ids)
    joined = tk.prepend_prompts(shared, u, v, task_ids.int(), embeds)
    tk.compose_prompts_backward(joined[:, :100], shared, u, v, task_ids)
    tk.merge_task_vectors(reference, prompts, scale, weights)
    tk.merge_task_vectors_backward(reference, reference, prompts, scale, weights, [True] * 4)
    tk.select_group(rand(6, 6, dtype=dtype), 0)


@pytest.mark.skipif(backend_module.INTERPRETED, reason="interpreted kernels are not compiled")
@pytest.mark.slow
@pytest.mark.parametrize("target", [("cuda", 80, 32), ("hip", "gfx942", 64)], ids=str)
def test_kernels_compile_for_a_gpu_that_is_not_here(monkeypatch, target):
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    launches = {}

    def record(kernel, grid, *arguments, **meta):
        launches[kernel, tuple(type(a) if a is None else getattr(a, "dtype", None) for a in arguments)] = (
            arguments,
            meta,
        )

    for name in ("gram", "similarity", "svgd", "hadamard", "merge", "grouping"):
        monkeypatch.setattr(importlib.import_module(f"promptkernels.backends.triton_kernels.{name}"), "launch", record)
    operations(torch.float32)
    pointers = {
        torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64", torch.bool: "*i1"
    }  # fmt: skip
    assert len({kernel for kernel, _ in launches}) == 15
    for (kernel, _), (arguments, meta) in launches.items():
        signature, constants = {}, {}
        for parameter in kernel.params:
            value = arguments[parameter.num] if parameter.num < len(arguments) else meta[parameter.name]
            if torch.is_tensor(value):
                signature[parameter.name] = pointers[value.dtype]
            elif value is None or parameter.is_constexpr:
                signature[parameter.name], constants[(parameter.num,)] = "constexpr", value
            else:
                signature[parameter.name] = parameter.annotation_type or "i32"
        options = {k: v for k, v in meta.items() if k not in signature} | {
            "debug": bool(kernel.debug),
            "enable_fp_fusion": True,
        }
        source = ASTSource(kernel, signature, constants)
        compiled = triton.compile(source, target=GPUTarget(*target), options=options)
        assert compiled.metadata.shared <= 64 * 1024, kernel


def test_the_package_does_not_import_triton():
    code = "import torch, sys; before = set(sys.modules); import promptkernels; new = set(sys.modules) - before; "
    code += "print([m for m in new if m == 'triton' or 'triton_kernels' in m])"
    assert run("-c", code).stdout.strip() == "[]"


REASON = "import promptkernels as pk; s = pk.backends()['triton']; print(s.available, s.reason, s.devices)"


@pytest.mark.skipif(torch.cuda.is_available() or torch.xpu.is_available(), reason="there is a GPU")
def test_without_gpu_or_interpreter_the_reason_says_what_is_missing():
    pytest.importorskip("triton")
    said = run("-c", REASON).stdout
    assert said.startswith("False") and "no GPU" in said and "TRITON_INTERPRET=1" in said
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
        "import torch; from promptkernels.backends import registry; print(registry.choose('cpu', torch.float32).NAME); "
    )
    code += "registry.set_backend('triton'); print(registry.choose('cpu', torch.float32).NAME)"
    first, forced = run("-c", code, TRITON_INTERPRET="1").stdout.split()
    assert first != "triton" and forced == "triton"
