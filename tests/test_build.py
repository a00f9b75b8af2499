"""Installing with missing parts: optional parts are skipped with one line, requested parts are an error."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytest.importorskip("pybind11", reason="the build requirements are not installed in this environment")
pytest.importorskip("setuptools", minversion="77")

pytestmark = pytest.mark.package


def build(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`setup.py build` into a temporary folder, which is what pip runs; without a network and without isolation."""
    folders = ["--build-base", str(tmp_path / "base"), "--build-lib", str(tmp_path / "lib")]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PROMPTKERNELS_") and k not in ("CXX", "CUDACXX")}
    return subprocess.run(
        [sys.executable, "setup.py", "build", *folders],
        cwd=ROOT,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def modules(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "lib").rglob("_C_*.so")]


def test_none_builds_pure_python(tmp_path):
    done = build(tmp_path, PROMPTKERNELS_BUILD="none", CXX="/bin/false")
    assert done.returncode == 0, done.stderr
    assert modules(tmp_path) == []
    assert (tmp_path / "lib" / "promptkernels" / "reference" / "similarity.py").exists()
    assert (tmp_path / "lib" / "prompttransfer").is_dir()


def test_auto_survives_a_broken_compiler_and_says_what_is_lost(tmp_path):
    done = build(tmp_path, CXX="/bin/false")
    assert done.returncode == 0, done.stderr
    assert modules(tmp_path) == []
    lines = [line for line in done.stderr.splitlines() if line.startswith("promptkernels: installing without the cpu")]
    assert len(lines) == 1 and "plain torch reference" in lines[0]


def test_an_old_compiler_is_named(tmp_path):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++, which is asked to pretend to be an older one")
    old = tmp_path / "g++"
    old.write_text(f'#!/bin/sh\nexec {compiler} -U__GNUC__ -D__GNUC__=11 "$@"\n')
    old.chmod(0o755)
    done = build(tmp_path, CXX=str(old), PROMPTKERNELS_BUILD="cpu")
    assert done.returncode != 0
    assert "but its build failed: the CPU kernels need GCC 12 or newer, or Clang: this is GCC 11" in done.stderr


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_an_explicit_build_fails_loudly(tmp_path, kind):
    done = build(tmp_path, PROMPTKERNELS_BUILD=kind, CXX="/bin/false")
    assert done.returncode != 0
    assert f"the cpu module was asked for (PROMPTKERNELS_BUILD={kind}) but its build failed" in done.stderr


def test_unknown_mode_is_named(tmp_path):
    done = build(tmp_path, PROMPTKERNELS_BUILD="gpu")
    assert done.returncode != 0
    assert "PROMPTKERNELS_BUILD must be one of auto, cpu, cuda, none, got 'gpu'" in done.stderr


OWN, OTHER = sysconfig.get_config_var("EXT_SUFFIX"), ".cpython-300-x86_64-linux-gnu.so"
MODULE = ROOT / "promptkernels" / f"_C_cuda{OWN}"


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The build command of setup.py in a checkout with the modules of two Pythons; it compiles nothing."""
    monkeypatch.setattr("setuptools.setup", lambda **_: None)
    monkeypatch.setenv("PROMPTKERNELS_BUILD", "cpu")
    spec = importlib.util.spec_from_file_location("setup_script", ROOT / "setup.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "ROOT", tmp_path)
    # Not initialized: that takes a Distribution of the very distutils that an earlier test may have replaced.
    builder = script.CMakeBuild.__new__(script.CMakeBuild)
    builder.build_lib = str(tmp_path / "lib")
    for folder in ("promptkernels", "lib/promptkernels"):
        (tmp_path / folder).mkdir(parents=True)
        for name in (f"_C_cpu{OWN}", f"_C_cuda{OWN}", f"_C_cpu{OTHER}"):
            (tmp_path / folder / name).write_text("earlier")
    builder.build_module = lambda kind: (builder.folder() / f"_C_{kind}{OWN}").write_text("new")
    return builder


def names(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("_C_*")}


def test_an_editable_build_leaves_the_modules_of_another_python_alone(command, tmp_path):
    command.editable_mode = True
    command.run()
    assert names(tmp_path / "promptkernels") == {f"_C_cpu{OWN}": "new", f"_C_cpu{OTHER}": "earlier"}
    assert command.get_outputs() == [str(tmp_path / "promptkernels" / f"_C_cpu{OWN}")]


def test_a_wheel_holds_the_modules_of_its_build_only(command, tmp_path):
    command.editable_mode = False
    command.run()
    assert names(tmp_path / "lib" / "promptkernels") == {f"_C_cpu{OWN}": "new"}
    assert command.get_outputs() == [str(tmp_path / "lib" / "promptkernels" / f"_C_cpu{OWN}")]
    assert len(names(tmp_path / "promptkernels")) == 3


def test_make_clean_leaves_the_modules_of_another_python_alone(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    package = tmp_path / "promptkernels"
    package.mkdir()
    for suffix in (OWN, OTHER):
        (package / f"_C_cpu{suffix}").touch()
    subprocess.run(["make", "clean", f"PYTHON={sys.executable}"], cwd=tmp_path, check=True, capture_output=True)
    assert list(names(package)) == [f"_C_cpu{OTHER}"]


@pytest.mark.skipif(not MODULE.exists(), reason="there is no CUDA module")
def test_cuda_kernels_spill_no_registers():
    """Read from the machine code of the module that is installed, so nothing is compiled for it."""
    triton = importlib.util.find_spec("triton")
    reader = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump" if triton else None
    if reader is None or not reader.exists():
        pytest.skip("there is no Triton, or it has no cuobjdump")
    usage = subprocess.run([reader, "--dump-resource-usage", MODULE], capture_output=True, text=True, check=True).stdout
    _, *codes = re.split(r"^arch = ", usage, flags=re.MULTILINE)
    codes = [code for code in codes if code.startswith("sm_90\n")]
    if not codes:
        pytest.skip("the CUDA module has no code for sm_90")
    kernels = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+)", "\n".join(codes))
    assert all(
        any(name in kernel for kernel, _, _ in kernels) for name in ("gram_kernel", "mix_tf32", "compose_kernel")
    )
    assert all(0 < int(registers) <= 255 for _, registers, _ in kernels)
    on_stack = {kernel: int(stack) for kernel, _, stack in kernels if int(stack)}
    assert not on_stack, "registers spilled, or a parameter copied that should be PK_GRID_CONSTANT"


def test_report_of_registers():
    log = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN3one6kernelEv' for 'sm_80'
ptxas info    : Function properties for _ZN3one6kernelEv
    40 bytes stack frame, 24 bytes spill stores, 32 bytes spill loads
ptxas info    : Used 128 registers, used 1 barriers, 4112 bytes smem, 472 bytes cmem[0]
ptxas info    : Compiling entry function 'two' for 'sm_120'
ptxas info    : Function properties for two
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 18 registers, used 0 barriers, 372 bytes cmem[0]
"""
    script = ROOT / "cmake" / "ptxas_report.py"
    lines = subprocess.run([sys.executable, script], input=log, capture_output=True, text=True).stdout.splitlines()
    assert lines[0].endswith("sm_80   128 registers, 56 bytes spilled, 40 stack, 4112 shared")
    assert lines[1].endswith("sm_120   18 registers, 0 bytes spilled, 0 stack, 0 shared")
    assert lines[2] == "2 kernels, 1 of them spill registers"
