"""What a run found: pictures, one self-contained HTML page, and tables for the terminal."""

from __future__ import annotations

import io
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from prompttransfer.report.results import Results, read_results

__all__ = ["Picture", "Results", "pictures", "read_results", "write_report"]


@dataclass(frozen=True)
class Picture:
    """A drawn picture; name: of its file, without the suffix."""

    name: str
    title: str
    caption: str
    png: bytes


def pictures(results: Results) -> list[Picture]:
    """All pictures that the results hold something to draw for."""
    # Imported here: reading results does not need matplotlib.
    from prompttransfer.report import figures

    kinds = (
        ("scores", figures.scores, "Scores by target", "Bars: methods; lines: majority class and zero-shot."),
        (
            "differences",
            figures.differences,
            "Difference to PT, drawn",
            "Dots: the targets. Diamonds: their mean with its 95 % interval, black for other draws of rows on these "
            "targets, grey for other targets like these.",
        ),
        (
            "learning",
            figures.learning_curves,
            "Learning curves",
            "Training loss on the target's rows, mean over seeds. SPoT and DTVG spend their first updates on a prompt "
            "of the target's own, the rest on the transfer.",
        ),
        (
            "similarity",
            figures.similarity,
            "Task similarity",
            "Cosine of the task vectors P - P_init, mean over seeds.",
        ),
        (
            "groups",
            figures.groups,
            "DTVG's groups",
            "Blue: the share of seeds that merge the source at this update (in brackets: of all updates).",
        ),
        ("particles", figures.particles, "BMTPT's particles", "Mean distance between particles in the source stage."),
    )
    drawn = []
    for name, draw, title, caption in kinds:
        figure = draw(results)
        if figure is not None:
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=140)
            drawn.append(Picture(name, title, caption, content.getvalue()))
    return drawn


def write_report(run_folder: str | Path) -> Path:
    """Write the pictures (PNG) and report.html into a run folder, from its files alone; returns the page's path.

    Raises:
        FileNotFoundError, ValueError: it is not a run folder.
    """
    from prompttransfer.report.page import page

    results = read_results(run_folder)
    drawn = pictures(results)
    for picture in drawn:
        _write(results.folder / f"{picture.name}.png", picture.png)
    path = results.folder / "report.html"
    _write(path, page(results, drawn).encode("utf-8"))
    return path


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    Path(temporary).chmod(0o644)
    os.replace(temporary, path)
