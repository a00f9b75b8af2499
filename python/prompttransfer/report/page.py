"""The page of one run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from prompttransfer.report import tables
from prompttransfer.report.html import Section, document, fragment, link
from prompttransfer.report.results import Results
from prompttransfer.report.svg import Picture
from prompttransfer.runs.rows import SourceRow, TargetRow

_ABOUT_SCORES = (
    "zero-shot: the model without a prompt; majority: always the most frequent answer. ±: standard deviation over "
    "seeds. † collapsed: at least 98 % of the rows got the same answer."
)
_ABOUT_DIFFERENCES = (
    "Differences are between pairs with the same target and seed. CI: Student's t confidence interval. Over seeds: for "
    "another draw of training rows on the same targets; over targets and seeds: for other targets of this kind. "
    "Intervals need two seeds (or targets) and are not corrected for the number of comparisons. An interval of width 0 "
    "comes from equal values; with few values, that is chance, not certainty."
)
_ABOUT_COST = (
    "For one target and seed. Source updates serve all targets. Seconds are medians of the target stage over "
    "targets and seeds; they depend on the load of the machine."
)
_ABOUT_RELATED = (
    "Sign-flip test of each source's task vector against the target's vector after the target's first updates. A "
    "source whose z reaches the level is related. By default, MPT, BMTPT and DTVG transfer only from related sources. "
    "cosine and z are means over seeds; 'related in' counts the seeds."
)
_ABOUT_LEFT_OUT = (
    "leaked: training rows that overlap with rows a prompt is scored on; skipped: rows that do not fit the task. "
    "Neither was used."
)


def page(results: Results, pictures: Sequence[Picture], path: Path) -> str:
    """The report as HTML, for a file at `path`. Links to prompts are relative to it."""
    drawn = {picture.name: picture for picture in pictures}
    sections: list[Section] = []
    if results.rows:
        about = f"On {results.judged_on} rows. {_ABOUT_SCORES}"
        sections = [
            Section("Leaderboard", tables.leaderboard_rows(results), base=tables.BASELINES, note=_about_mean(results)),
            Section(
                "Scores", tables.overview_rows(results), base=tables.BASELINES, note=about, picture=drawn.pop("scores")
            ),
        ]
        if results.differences:
            differences = tables.difference_rows(results.differences)
            sections.append(Section("Difference to PT", differences, picture=drawn.pop("differences", None)))
    sections += [Section(picture.title, picture=picture) for picture in drawn.values()]
    if results.rows:
        sections += [
            Section("Cost", tables.cost_rows(results), note=_ABOUT_COST),
            Section("Scores in detail", _linked(results, path), words=2),
        ]
    sections += [
        Section("Source prompts", _with_prompts(results, path)),
        Section("Related sources", tables.related_rows(results), words=2, note=_ABOUT_RELATED),
        Section("Rows left out", tables.left_out_rows(results), words=2, note=_ABOUT_LEFT_OUT),
        Section("Notes", tables.note_rows(results), words=2, wrap=True),
        Section("Environment", (["", ""], list(results.environment.items())), words=2),
    ]
    if settings := results.content.get("settings"):
        sections.append(Section("Settings", code=json.dumps(settings, indent=2, ensure_ascii=False)))
    return document("Prompt transfer: comparison of methods", _intro(results), _warnings(results), sections)


def leaderboard(results: Results) -> str:
    """The leaderboard and its warnings as an HTML fragment."""
    table = tables.leaderboard_rows(results)
    return fragment(_intro(results), _warnings(results), Section("Leaderboard", table, base=tables.BASELINES))


def _intro(results: Results) -> str:
    environment = results.environment
    seeds = len({row.seed for row in results.rows})
    counts = ((len(results.methods), "method"), (len(results.targets), "target"), (seeds, "seed"))
    facts = [f"model {environment.get('model', 'unknown')}"]
    facts += [f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts]
    facts.append(environment.get("device", ""))
    return " · ".join(filter(None, facts))


def _warnings(results: Results) -> list[str]:
    warnings = []
    if results.judged_on != "test":
        warnings.append(f"Scored on {results.judged_on} rows, which are for choosing settings: not a result to report.")
    if not results.content.get("finished", False):
        warnings.append("This run is not finished: the tables show only the rows so far.")
    if len({row.seed for row in results.rows}) == 1:
        warnings.append("One seed: differences of a few points may be chance.")
    if few := tables.few_rows(results):
        warnings.append(f"{few}.")
    return warnings


def _about_mean(results: Results) -> str:
    left_out = [target for target in results.targets if target not in results.averaged]
    more = f" The mean leaves out targets on other scales: {', '.join(left_out)}." if left_out else ""
    return _ABOUT_DIFFERENCES + more


def _linked(results: Results, path: Path) -> tables.Table:
    """Every score in detail, with links to the prompts in place of the number of seeds."""
    cells = results.cells()
    head, rows = tables.fact_rows(cells)
    place = head.index("seeds")
    head[place] = "prompts by seed"
    seeds = [Markup(" ").join(_seed(results, path, row) for row in cell.rows) for cell in cells]
    return head, [[*row[:place], linked, *row[place + 1 :]] for row, linked in zip(rows, seeds, strict=True)]


def _with_prompts(results: Results, path: Path) -> tables.Table:
    """The source prompts, with links from their seeds to the files."""
    (name, _, *head), rows = tables.source_rows(results)
    linked = zip(rows, results.sources, strict=True)
    return [name, "prompt of seed", *head], [[row[0], _seed(results, path, it), *row[2:]] for row, it in linked]


def _seed(results: Results, path: Path, row: TargetRow | SourceRow) -> str:
    """The seed, as a link if the run has a file of the prompt."""
    seed = str(row.seed)
    if not row.prompt:
        return seed
    return link(seed, os.path.relpath((results.folder / row.prompt).absolute(), path.absolute().parent))
