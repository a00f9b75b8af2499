"""`--import`: a Python file with a method of the user's own."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import typer


def import_files(paths: list[Path] | None) -> None:
    """Import files, which register their methods. An exception in a file keeps its traceback.

    They are imported by name, so that worker processes, which have the same `sys.path`, can import them too.

    Raises:
        BadParameter: a path is not a Python file, or another module has its name.
    """
    for path in paths or ():
        _import(path)


def _import(path: Path) -> None:
    if path.suffix != ".py" or not path.is_file():
        raise typer.BadParameter(f"got {path}, want a Python file that registers a method, such as soup.py")
    path = path.resolve()
    sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    if module.__file__ is None or Path(module.__file__).resolve() != path:
        raise typer.BadParameter(f"{path.stem} is the name of another module, {module.__file__}; rename {path.name}")
