"""Environments that hold an installed wheel and nothing of this checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch


def run(*command: object, **environment: str) -> str:
    """What a command prints, without the variables that act on the package or on Python."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PROMPTKERNELS_", "PYTHON"))}
    done = subprocess.run(
        list(map(str, command)), env=clean | {"PATH": path} | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def environment(folder: Path, python: str, wheel: Path, *others: str) -> Path:
    """The Python of a new environment with this wheel and these packages of the index. Nothing is compiled for it."""
    run(python, "-m", "venv", "--without-pip", folder)
    made = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", made, "install", "--no-deps"]
    run(*install, "--no-index", wheel)
    if others:
        run(*install, "--only-binary=:all:", *others)
    return made


def borrow_dependencies(python: Path) -> Path:
    """Let an environment of this very Python see torch and what lies beside it; returns its own site-packages."""
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    # Lines of .pth files in there, such as that of an editable install, are not followed.
    (site / "borrowed.pth").write_text(str(Path(torch.__file__).parents[1]) + "\n")
    return site
