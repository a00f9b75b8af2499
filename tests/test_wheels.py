"""The wheels that `make wheels` left in ``dist``: what they link, and what they compute where they are installed.

`make test-wheels` runs these. They install numpy from the package index beside each wheel, so they need a network.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from installing import borrow_dependencies, environment, run

from tools.wheels import interpreter

ROOT = Path(__file__).resolve().parents[1]
# NAME-VERSION-cp311-cp311-manylinux_2_28_x86_64.whl
NATIVE = {
    (found[1], found[2]): path
    for path in sorted((ROOT / "dist").glob("*.whl"))
    if (found := re.search(r"-cp(3\d+)-cp\1-manylinux_2_28_(\w+)\.whl$", path.name))
}
THIS = f"3{sys.version_info.minor}", platform.machine()
pytestmark = [
    pytest.mark.package,
    pytest.mark.nightly,
    pytest.mark.skipif(not NATIVE, reason="there are no wheels in dist: run `make wheels` first"),
]
every_wheel = pytest.mark.parametrize("python, processor", NATIVE or [("", "")])
KERNELS_ALONE = ROOT / "tests" / "kernels_alone.py"
TOPICS = ("oracle", "formulas", "degenerate", "errors", "autograd", "types")
OPERATIONS = [ROOT / "tests" / "ops" / f"test_{name}.py" for name in TOPICS]


def python_of(version: str) -> str:
    found = interpreter(f"3.{version[1:]}")
    if found is None:
        pytest.skip(f"Python 3.{version[1:]} is not on this machine")
    return found[0]


@every_wheel
def test_links_what_every_linux_has(python: str, processor: str, tmp_path: Path) -> None:
    readelf = shutil.which("readelf")
    if readelf is None:
        pytest.skip("readelf was not found")
    with zipfile.ZipFile(NATIVE[python, processor]) as archive:
        natives = [name for name in archive.namelist() if re.search(r"\.so|\.libs/", name)]
        assert f"promptkernels/_C_cpu.cpython-{python}-{processor}-linux-gnu.so" in natives
        assert {re.sub(r"\..*", "", name) for name in natives} <= {"promptkernels/_C_cpu", "promptkernels/_C_cuda"}
        modules = [archive.extract(name, tmp_path) for name in natives]
    for module in modules:
        told = run(readelf, "--file-header", "--dynamic", "--version-info", "--wide", module)
        assert re.search(r"Machine:.*(X86-64|AArch64)", told)[1].lower().replace("-", "_") == processor
        needed = set(re.findall(r"\(NEEDED\).*\[(.+?)\]", told))
        assert needed and all(re.fullmatch(r"lib(c|m|dl|pthread|rt)\.so\.\d|ld-linux.*", name) for name in needed)
        versions = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_(\d+\.\d+)", told)}
        assert versions and max(versions) <= (2, 28)


@pytest.mark.parametrize("python", sorted({python for python, processor in NATIVE if processor == THIS[1]}))
def test_computes_in_an_empty_environment(python: str, tmp_path: Path) -> None:
    """Every kernel by every instruction set, also where no torch is at hand for this Python."""
    made = environment(tmp_path / "env", python_of(python), NATIVE[python, THIS[1]], "numpy")
    assert f"_C_cpu.cpython-{python}-{THIS[1]}-linux-gnu.so: baseline" in run(made, KERNELS_ALONE)


@pytest.mark.skipif(THIS not in NATIVE, reason="there is no wheel for this Python and processor")
@pytest.mark.parametrize("model, level", [("Nehalem", "baseline"), ("Haswell", "avx2")])
def test_an_older_processor_gets_what_it_can_run(model: str, level: str, tmp_path: Path) -> None:
    emulator = shutil.which("qemu-x86_64-static") or shutil.which("qemu-x86_64")
    if emulator is None or THIS[1] != "x86_64":
        pytest.skip("needs qemu-x86_64, which is another processor than this one")
    made = environment(tmp_path / "env", sys.executable, NATIVE[THIS], "numpy")
    told = run(emulator, "-cpu", model, made, KERNELS_ALONE, level)
    assert "avx512" not in told and level in told


@pytest.mark.parametrize("kind", ["native", "any"])
def test_operations_where_the_wheel_is_installed(kind: str, tmp_path: Path) -> None:
    """The tests of the operations, on the package that the wheel installed and the torch of this environment."""
    if kind == "native" and THIS not in NATIVE:
        pytest.skip("there is no wheel for this Python and processor")
    (wheel,) = [NATIVE[THIS]] if kind == "native" else (ROOT / "dist").glob("*-py3-none-any.whl")
    made = environment(tmp_path / "env", sys.executable, wheel)
    site = borrow_dependencies(made)
    facts = "import promptkernels as pk; print(pk.__file__, pk.backends()['cpu'].available)"
    file, available = run(made, "-I", "-c", facts).split()
    assert Path(file).is_relative_to(site) and available == str(kind == "native")
    told = run(
        *(made, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"pythonpath={ROOT / 'tests'}"),
        *("--runner", "cpu" if kind == "native" else "reference", "-m", "not slow and not nightly", *OPERATIONS),
        OMP_NUM_THREADS="1",
    )
    assert int(re.search(r"(\d+) passed", told)[1]) > 100


@pytest.fixture(scope="session")
def aarch64() -> tuple[list[str], str]:
    """How to run a Python for aarch64, and its version as in the name of a wheel."""
    command = shlex.split(os.environ.get("AARCH64_PYTHON", ""))
    if not command:
        pytest.skip("AARCH64_PYTHON does not say how to run a Python for aarch64 (docs/wheels.md)")
    told = run(*command, "-c", "import platform, sys; print(platform.machine(), sys.version_info.minor)").split()
    assert told[0] == "aarch64"
    return command, f"3{told[1]}"


def test_computes_on_aarch64(aarch64: tuple[list[str], str], tmp_path: Path) -> None:
    command, python = aarch64
    platforms = [f"--platform=manylinux_2_{glibc}_aarch64" for glibc in (28, 27, 17)]
    target = ["--target", tmp_path, f"--python-version={python}", "--only-binary=:all:", *platforms]
    run(sys.executable, "-m", "pip", "install", "--no-deps", *target, NATIVE[python, "aarch64"], "numpy")
    told = run(*command, KERNELS_ALONE, PYTHONPATH=str(tmp_path))
    assert f"_C_cpu.cpython-{python}-aarch64-linux-gnu.so: baseline" in told
