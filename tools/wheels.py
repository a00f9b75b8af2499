"""Wheels in ``dist``: for CPython on Linux with glibc 2.28 or later, x86-64 and aarch64, and one for any platform.

    python tools/wheels.py [--cuda] [--only 3.12]

Compiled by zig, which brings the libraries of older Linux for both processors. `make wheels` sets up the environment
for it. A Python that is not on this machine is skipped with a message.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST, WORK = ROOT / "dist", ROOT / "build" / "wheels"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
PROCESSORS = ("x86_64", "aarch64")
PLATFORM = "manylinux_2_28"


def interpreter(version: str) -> tuple[str, Path] | None:
    """A CPython of this version, on the PATH or of pyenv, and the folder of its headers; None where there is none."""
    on_path = shutil.which(f"python{version}")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for python in (*filter(None, [on_path]), *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))):
        command = [python, "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
        done = subprocess.run(command, capture_output=True, text=True)
        headers = Path(done.stdout.strip())
        # What pyenv has on the PATH for a version that is not chosen prints nothing.
        if done.returncode == 0 and (headers / "Python.h").exists():
            return python, headers
    return None


def run(*command: object, **environment: str) -> None:
    """A command with the tools of this environment, and setuptools and pybind11; quiet unless it fails."""
    tools = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(WORK / "plain"),
    }
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | tools | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nfailed: {' '.join(map(str, command))}")


def source_tree() -> Path:
    """The unpacked sdist, so that a file that is missing there fails here; always in one place, for zig's cache."""
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "-x", "--outdir", DIST, ROOT)
    (sdist,) = DIST.glob("*.tar.gz")
    shutil.rmtree(WORK / "tree", ignore_errors=True)
    (WORK / "tree").mkdir(parents=True)
    run("tar", "-xzf", sdist, "-C", WORK / "tree")
    (tree,) = (WORK / "tree").iterdir()
    return tree


def build(tree: Path, python: str, folder: Path, *options: str, **environment: str) -> Path:
    """One wheel, in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "wheel", "--no-deps", "--no-build-isolation"]
    run(*pip, *options, "--wheel-dir", folder, tree, **environment)
    (wheel,) = folder.glob("*.whl")
    return wheel


def native(tree: Path, version: str, python: str, headers: Path, processor: str, cuda: bool) -> None:
    """The wheel of one Python for one processor; auditwheel checks what it links and names it accordingly."""
    wheel = build(
        tree,
        python,
        WORK / "raw",
        f"--config-settings=--build-option=--plat-name=linux_{processor}",
        PROMPTKERNELS_BUILD="cuda" if cuda and processor == "x86_64" else "cpu",
        CMAKE_TOOLCHAIN_FILE=str(tree / "cmake" / "zig.cmake"),
        PK_ZIG_PYTHON=sys.executable,
        PK_PROCESSOR=processor,
        PK_PYTHON_INCLUDE=str(headers),
        PK_MODULE_SUFFIX=f".cpython-{version.replace('.', '')}-{processor}-linux-gnu.so",
        ZIG_GLOBAL_CACHE_DIR=str(WORK / "zig"),
    )
    run(
        *(sys.executable, "-m", "auditwheel", "repair", "--plat", f"{PLATFORM}_{processor}", "--only-plat"),
        *("--wheel-dir", DIST, wheel),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuda", action="store_true", help="with the CUDA module for x86-64: minutes for each Python")
    parser.add_argument("--only", action="append", choices=VERSIONS, help="this version of Python; may be repeated")
    wanted = parser.parse_args()
    shutil.rmtree(DIST, ignore_errors=True)
    tree = source_tree()
    shutil.move(build(tree, sys.executable, WORK / "raw", PROMPTKERNELS_BUILD="none"), DIST)
    for version in wanted.only or VERSIONS:
        python_and_headers = interpreter(version)
        if python_and_headers is None:
            print(f"no wheels for Python {version}: it is not on this machine, or has no headers", flush=True)
            continue
        for processor in PROCESSORS:
            native(tree, version, *python_and_headers, processor, wanted.cuda)
    files = sorted(DIST.iterdir())
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    for path in files:
        print(f"{path.stat().st_size / 1e6:5.2f} MB  {path.name}")


if __name__ == "__main__":
    main()
