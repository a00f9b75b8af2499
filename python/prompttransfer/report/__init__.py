"""What a run found: one self-contained HTML page, pictures as SVG, and tables for the terminal."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from prompttransfer.report.pictures import Picture, pictures
from prompttransfer.report.results import Results, read_results

__all__ = ["Picture", "Results", "pictures", "read_results", "write_report"]


def write_report(run_folder: str | Path) -> Path:
    """Write report.html into a run folder, from its files alone; returns the page's path.

    Raises:
        FileNotFoundError, ValueError: it is not a run folder.
    """
    from prompttransfer.report.page import page

    results = read_results(run_folder)
    path = results.folder / "report.html"
    write_text(path, page(results, pictures(results)))
    return path


def write_text(path: Path, text: str) -> None:
    """Whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    Path(temporary).chmod(0o644)
    os.replace(temporary, path)
