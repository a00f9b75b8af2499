"""The page of several runs side by side."""

from __future__ import annotations

import os
from pathlib import Path

from prompttransfer.report.figures import difference_picture
from prompttransfer.report.html import Section, document, link
from prompttransfer.report.side_by_side import Runs, labelled_differences, mean_rows, score_rows, setting_rows

_ABOUT = (
    "Differences are between pairs with the same method, target and seed, scored by the same metric on the same number "
    "of test rows. In brackets: 95 % confidence intervals of Student's t, not corrected for the number of comparisons; "
    "then the number of pairs. Scores are means over all seeds of a run. Equal seeds draw equal rows only where the "
    "data settings are equal."
)


def runs_page(runs: Runs, path: Path) -> str:
    """The comparison as HTML, for a file at `path`. Links to the runs' own reports are relative to it."""
    lines = []
    for name, results in runs.results.items():
        report = results.folder / "report.html"
        where = os.path.relpath(report.resolve(), path.resolve().parent)
        seeds = ", ".join(map(str, dict.fromkeys(row.seed for row in results.rows)))
        state = "yes" if results.content.get("finished") else "no"
        facts = [str(results.content.get("model", "")), results.judged_on, seeds, state]
        lines.append([link(name, where) if report.is_file() else name, *facts])
    settings = setting_rows(runs)
    same = "" if settings[1] else "Nothing differs in settings, model, machine or versions."
    picture = difference_picture(labelled_differences(runs), runs.first)
    sections = [
        Section("Runs", (["run", "model", "scored on", "seeds", "finished"], lines), words=2),
        Section("What differs", None if same else settings, wrap=True, note=same),
        Section("Means", mean_rows(runs), note=_ABOUT, picture=picture if picture.panels else None),
        Section("Every score", score_rows(runs), words=3),
    ]
    warnings = []
    if len({results.judged_on for results in runs.results.values()}) > 1:
        warnings.append("The runs were scored on different splits.")
    if not runs.comparisons:
        warnings.append("No two rows can be compared: see below.")
    intro = f"All runs are compared with {runs.first}."
    return document("Prompt transfer: runs side by side", intro, warnings, sections)
