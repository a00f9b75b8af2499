"""Report of a run: one self-contained HTML page, pictures as SVG, and tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prompttransfer.files.durable import replacing
from prompttransfer.report.figures import pictures
from prompttransfer.report.results import Results, read_results
from prompttransfer.report.svg import Picture

__all__ = ["Picture", "Results", "pictures", "read_results", "write_comparison", "write_report"]


def write_report(run_folder: str | Path, path: str | Path | None = None) -> Path:
    """Write the report of a run, using only the files in its folder, and return the page's path.

    Args:
        path: path of the page. Default: report.html in the run folder.

    Raises:
        FileNotFoundError, ValueError: the folder is not a run folder.
    """
    from prompttransfer.report.page import page

    results = read_results(run_folder)
    path = results.folder / "report.html" if path is None else Path(path)
    _write(path, page(results, pictures(results), path))
    return path


def write_comparison(run_folders: Sequence[str | Path], path: str | Path) -> Path:
    """Write a page with several runs side by side, compared with the first, and return its path.

    Raises:
        FileNotFoundError, ValueError: there are fewer than two folders, a duplicate, or one that is not a run folder.
    """
    from prompttransfer.report.runs_page import runs_page
    from prompttransfer.report.side_by_side import read_runs

    path = Path(path)
    _write(path, runs_page(read_runs(run_folders), path))
    return path


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
