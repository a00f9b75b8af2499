"""Native modules built for tests only: with sanitizers, or for an emulated device; and Python processes that load them.

A build folder stays under ``build/`` between runs, so that only what changed is compiled again.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
SANITIZE = "address,undefined"
MODULES = "PROMPTKERNELS_TEST_MODULES"  # name=path, separated by os.pathsep: see `preloaded_modules`


def build_module(kind: str, sanitize: str = "", folder: Path | None = None) -> Path:
    """Compile ``promptkernels._C_<kind>`` and return its path; skips the test where no compiler or CMake is at hand.

    Args:
        kind: CMake's option ``PK_<KIND>`` and target ``_C_<kind>``: ``cpu``, ``cuda_emulated``.
        sanitize: as ``-fsanitize=`` takes it, e.g. `SANITIZE`.
        folder: where to build; by default one folder per kind and sanitizer in the source tree.

    Raises:
        AssertionError: the build failed; the message holds its output.
    """
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed: no native module can be built here")
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    for tool in (os.environ.get("CXX") or "c++", "cmake", "ninja"):
        if shutil.which(tool, path=path) is None:
            pytest.skip(f"{tool} was not found: no native module can be built here")
    folder = folder or ROOT / "build" / "-".join(["tests", kind, *sanitize.split(",")]).rstrip("-")
    folder.mkdir(parents=True, exist_ok=True)
    configure = ["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder), f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPK_SANITIZE={sanitize}"]
    configure += ["-DPK_CPU=OFF", f"-DPK_{kind.upper()}=ON"]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another test process may be building the same
        for command in (configure, ["cmake", "--build", str(folder), "--target", f"_C_{kind}"]):
            done = subprocess.run(
                command, env={**os.environ, "PATH": path}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stdout[-8000:]}"
        (module,) = folder.glob(f"_C_{kind}.*so")
    return module


def load_module(name: str, path: Path) -> ModuleType:
    """Import a native module from a path under a full name (``promptkernels._C_cpu``)."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[name] = module
    return module


def preloaded_modules() -> None:
    """Import the modules that `run_pytest` named in the environment, before the package looks for its own."""
    for entry in filter(None, os.environ.get(MODULES, "").split(os.pathsep)):
        name, _, path = entry.partition("=")
        load_module(name, Path(path))


def sanitized_environment() -> dict[str, str]:
    """The environment in which an ordinary Python can load a sanitized module. Skips the test if there is none.

    libstdc++ is preloaded too, because the sanitizer looks up the exception functions when it starts, long before
    Python loads the first C++ module.
    """
    compiler = os.environ.get("CXX") or "c++"
    if sys.platform != "linux" or shutil.which(compiler) is None:
        pytest.skip("sanitized modules are loaded through LD_PRELOAD: needs Linux and a compiler")
    libraries = []
    for library in ("libasan.so", "libstdc++.so.6"):
        path = subprocess.run([compiler, f"-print-file-name={library}"], capture_output=True, text=True).stdout.strip()
        if not os.path.isabs(path):
            pytest.skip(f"{compiler} has no {library}: sanitized modules cannot run here")
        libraries.append(os.path.realpath(path))
    # Python frees little memory at exit, so leaks mean nothing.
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
    return {**os.environ, "LD_PRELOAD": " ".join(libraries), **options}


def run_pytest(
    arguments: list[str], modules: dict[str, Path], *, sanitized: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest in a new process in which ``modules`` (full name -> path) replace the installed ones."""
    changed = {
        **(sanitized_environment() if sanitized else os.environ),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT / "tests"), os.environ.get("PYTHONPATH")])),
        MODULES: os.pathsep.join(f"{name}={path}" for name, path in modules.items()),
        **environment,
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "preload", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=changed, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
