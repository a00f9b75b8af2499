"""What a run found: pictures, one self-contained HTML page, and tables for the terminal."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

from prompttransfer.report.results import Results, read_results

__all__ = ["Results", "read_results", "write_report"]


def write_report(run_folder: str | Path) -> Path:
    """Write the pictures (PNG) and report.html into a run folder, from its files alone; returns the page's path.

    Raises:
        FileNotFoundError, ValueError: it is not a run folder.
    """
    # Imported here: reading results does not need matplotlib.
    from prompttransfer.report import figures
    from prompttransfer.report.page import page

    results = read_results(run_folder)
    kinds = (
        ("scores", figures.scores, "Scores by target", "Bars: methods; lines: majority class and zero-shot."),
        (
            "learning",
            figures.learning_curves,
            "Learning curves",
            "Training loss on the target's rows. SPoT and DTVG spend their first updates on a prompt of the target's "
            "own, the rest on the transfer.",
        ),
        ("similarity", figures.similarity, "Task similarity", "Cosine of the task vectors P - P_init."),
        ("groups", figures.groups, "DTVG's groups", "Blue: the source is merged at this update (share of updates)."),
        ("particles", figures.particles, "BMTPT's particles", "Mean distance between particles in the source stage."),
    )
    pictures = []
    for name, draw, title, caption in kinds:
        figure = draw(results)
        if figure is not None:
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=140)
            _write(results.folder / f"{name}.png", content.getvalue())
            pictures.append((title, caption, content.getvalue()))
    path = results.folder / "report.html"
    _write(path, page(results, pictures).encode("utf-8"))
    return path


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(temporary).chmod(0o644)
    os.replace(temporary, path)
