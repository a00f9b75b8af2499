"""The page of one run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prompttransfer.report.escaping import escape
from prompttransfer.report.html import Markup, document, figure, link, paragraph, table
from prompttransfer.report.pictures import Picture
from prompttransfer.report.results import Results
from prompttransfer.report.statistics import difference_rows
from prompttransfer.report.tables import (
    BASELINES,
    Table,
    cost_rows,
    fact_rows,
    few_rows,
    leaderboard_rows,
    left_out_rows,
    note_rows,
    overview_rows,
    related_rows,
    source_rows,
)
from prompttransfer.runs.rows import SourceRow, TargetRow

_ABOUT_SCORES = (
    "zero-shot: the model without a prompt; majority: always the most frequent answer. ±: standard deviation over "
    "seeds. † collapsed: at least 98 % of the rows got one answer."
)
_ABOUT_DIFFERENCES = (
    "Above or below PT in pairs of the same target and seed, with 95 % t intervals: of a target over its seeds; of the "
    "mean over targets, for other draws of rows on these targets and for other targets like these. Pairs won, tied, "
    "lost. Intervals need two seeds (or targets) and are not corrected for the number of comparisons. One without "
    "width is of values that are equal: of few values that is chance, not certainty."
)


def page(results: Results, pictures: Sequence[Picture], path: Path) -> str:
    """The report as HTML, to stand at `path`: its links to prompts are relative to it."""
    content = results.content
    sections: list[tuple[str, str]] = []
    drawn = {picture.name: (picture.title, figure(picture)) for picture in pictures}
    if results.rows:
        sections.append(("Leaderboard", table(*leaderboard_rows(results), base=BASELINES) + _about_mean(results)))
        note = paragraph(f"On {results.judged_on} rows. {_ABOUT_SCORES}")
        sections.append(("Scores", table(*overview_rows(results), base=BASELINES) + note + drawn.pop("scores")[1]))
        head, rows = difference_rows(results.rows, retrained=results.retrained)
        if rows:
            title, picture = drawn.pop("differences", ("Difference to PT", ""))
            sections.append((title, table(head, rows) + picture))
    sections += drawn.values()
    if results.rows:
        about = (
            "For one target and seed. Source updates serve all targets. Seconds are of the target stage, medians over "
            "targets and seeds; they depend on the load of the machine."
        )
        sections.append(("Cost", table(*cost_rows(results)) + paragraph(about)))
        sections.append(("Every score with its terms", table(*_linked(results, path), words=2)))
    head, rows = source_rows(results)
    if rows:
        sections.append(("Source prompts", table(*_with_prompts(results, path, head, rows))))
    head, rows = related_rows(results)
    if rows:
        about = (
            "Sign-flip test of each source's task vector against the target's, after its first updates. A source with "
            "a z of at least the level is related; methods that transfer from related sources only use these. Means "
            "over seeds."
        )
        sections.append(("Related sources", table(head, rows, words=2) + paragraph(about)))
    head, rows = left_out_rows(results)
    if rows:
        about = (
            "leaked: training rows that overlap with rows a prompt is judged on; skipped: rows that do not fit the "
            "task. Neither was used."
        )
        sections.append(("Rows left out", table(head, rows, words=2) + paragraph(about)))
    head, rows = note_rows(results)
    if rows:
        sections.append(("Notes", table(head, rows, words=2, long=("note",))))
    sections.append(("Environment", table(["", ""], environment_rows(content), words=2)))
    if content.get("settings"):
        settings = escape(json.dumps(content["settings"], indent=2, ensure_ascii=False))
        sections.append(("Settings", f"<details><summary>all settings</summary><pre>{settings}</pre></details>"))
    return document("Prompt transfer: comparison of methods", _intro(results), sections)


def environment_rows(content: dict[str, Any]) -> list[list[str]]:
    """Model, commit, machine and versions, as far as they are known."""
    facts = {
        "model": content.get("model"),
        "weights (fingerprint)": content.get("model_fingerprint"),
        "commit": content.get("commit"),
        **{name.replace("_", " "): value for name, value in content.get("machine", {}).items()},
        **content.get("versions", {}),
    }
    return [[name, str(value)] for name, value in facts.items() if value not in (None, "")]


def _intro(results: Results) -> list[str]:
    content = results.content
    seeds = len({row.seed for row in results.rows})
    counts = ((len(results.methods), "method"), (len(results.targets), "target"), (seeds, "seed"))
    facts = [f"model {content.get('model', 'unknown')}"]
    facts += [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts]
    facts += [f"{content['machine']['device']}" if content.get("machine", {}).get("device") else ""]
    parts = [paragraph(" · ".join(filter(None, facts)), "")]
    if results.judged_on != "test":
        parts.append(
            paragraph(f"Scored on {results.judged_on} rows: for the choice of settings, not a result.", "warn")
        )
    if not content.get("finished", False):
        parts.append(paragraph("This run is not finished: the tables hold what is done so far.", "warn"))
    if seeds == 1:
        parts.append(paragraph("One seed: differences of a few points may be chance.", "warn"))
    if few := few_rows(results):
        parts.append(paragraph(f"{few}.", "warn"))
    return parts


def _about_mean(results: Results) -> str:
    left_out = [target for target in results.targets if target not in results.averaged]
    parts = [_ABOUT_DIFFERENCES]
    if left_out:
        parts.append(f"The mean leaves out targets on other scales: {', '.join(left_out)}.")
    return paragraph(" ".join(parts))


def _linked(results: Results, path: Path) -> Table:
    """Every score with its terms; in place of the number of seeds, their prompts."""
    cells = results.cells()
    head, rows = fact_rows(cells)
    prompts: dict[tuple[str, str], list[TargetRow]] = {}
    for row in results.rows:
        prompts.setdefault((row.method, row.target), []).append(row)
    links = [
        Markup(" ".join(_prompt_link(results, path, row) for row in prompts[cell.method, cell.target]))
        for cell in cells
    ]
    place = head.index("seeds")
    head[place] = "prompts by seed"
    return head, [[*row[:place], found, *row[place + 1 :]] for row, found in zip(rows, links, strict=True)]


def _with_prompts(results: Results, path: Path, head: list[str], rows: list[list[str]]) -> Table:
    links = [_prompt_link(results, path, source) for source in results.sources]
    return [*head, "prompt of seed"], [[*row, found] for row, found in zip(rows, links, strict=True)]


def _prompt_link(results: Results, path: Path, row: TargetRow | SourceRow) -> Markup:
    """The seed, as a link where the run keeps the prompt in a file."""
    seed = str(row.seed)
    if not row.prompt:
        return Markup(escape(seed))
    return link(os.path.relpath((results.folder / row.prompt).absolute(), path.absolute().parent), seed)
