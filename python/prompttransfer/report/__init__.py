"""What a run found: one self-contained HTML page, pictures as SVG, and tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prompttransfer.files.durable import replacing
from prompttransfer.report.pictures import Picture, pictures
from prompttransfer.report.results import Results, read_results

__all__ = ["Picture", "Results", "pictures", "read_results", "write_comparison", "write_report"]


def write_report(run_folder: str | Path, path: str | Path | None = None) -> Path:
    """Write the report of a run, from the files of its folder alone; returns the page's path.

    Args:
        path: of the page; report.html in the run folder by default.

    Raises:
        FileNotFoundError, ValueError: it is not a run folder.
    """
    from prompttransfer.report.page import page

    results = read_results(run_folder)
    path = results.folder / "report.html" if path is None else Path(path)
    _write(path, page(results, pictures(results), path))
    return path


def write_comparison(run_folders: Sequence[str | Path], path: str | Path) -> Path:
    """Write a page with several runs side by side, all compared with the first; returns its path.

    Raises:
        FileNotFoundError, ValueError: fewer than two folders, one of them twice, or one is not a run folder.
    """
    from prompttransfer.report.runs_page import runs_page
    from prompttransfer.report.side_by_side import read_runs

    path = Path(path)
    _write(path, runs_page(read_runs(run_folders), path))
    return path


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
