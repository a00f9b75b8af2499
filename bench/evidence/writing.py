"""The pages below docs/results: Markdown that a code host renders, CSV with every row, and pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.evidence.studies import BASELINE, Study
from bench.evidence.tuning import settings_text
from prompttransfer.files.durable import write_csv
from prompttransfer.report import Results, pictures
from prompttransfer.report.statistics import comparisons, mean_heads
from prompttransfer.report.tables import cost_rows, difference_rows, mean_text, overview_rows, source_rows
from prompttransfer.runs.rows import TargetRow, csv_rows, row_of_csv

ARCHIVES = "bench/evidence/archives"
PROTOCOL = """\
Every method spends the same number of updates on the same target rows in the same batches; what a method needs first
from the target (SPoT, DTVG: the target's own prompt) is paid from that budget. No source holds a row that overlaps with
a test or validation row of a target. A seed draws the target's training rows and the batches. P_init and the source
prompts are those of the first seed where a page does not say otherwise: intervals then hold no chance of the sources.

Settings were chosen per method from grids of equal size by the mean validation score over the targets, with seeds that
are not reported and without reading a test row: [tuning](tuning.md) for 16 and 32 rows and for the parts of the
methods, [tuning-full](tuning-full.md) for all rows.

Differences are taken between runs of the same target and seed, which have seen the same rows and are scored on the same
rows. In brackets: 95 % confidence intervals (CI) of Student's t. *Over seeds*: what another draw of training rows would
give on the same targets. *Over targets and seeds*: what other targets of this kind would give; it is wide with few
targets."""


def write_study(study: Study, results: Results, folder: Path) -> None:
    """<study>.md, <study>.csv, <study>-<picture>.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / f"{study.name}.csv", csv_rows(results.rows))
    config, content = study.config, results.content
    parts = [f"# {study.name}", study.about]
    if not content["finished"]:
        cells = len(results.rows) + len(content["errors"])
        parts.append(f"**Not finished: {cells} of {content['cells']} cells.**")
    source_seed = config.seeds[0] if config.source_seed is None else config.source_seed
    parts.append(
        f"{config.train_rows:,} training rows per target at most, {config.target_updates} updates of "
        f"{config.batch_size} rows; {config.test_rows} test rows at most; {config.prompt_length} prompt tokens. "
        f"Sources: {', '.join(config.sources)}; {config.source_updates} updates of {config.source_batch_size} rows "
        f"each. Seeds {', '.join(map(str, config.seeds))}; sources trained "
        f"{'anew for every seed' if config.retrain_sources else f'once, with seed {source_seed}'}."
    )
    parts += [
        "## Scores",
        "Per cent; mean ± standard deviation over seeds. † one answer for 98 % of the rows or more.",
    ]
    parts.append(table(*overview_rows(results)))
    for baseline in dict.fromkeys(entry.against for entry in study.entries.values()):
        labels = {label for label, entry in study.entries.items() if entry.against == baseline} | {baseline}
        of_baseline = [row for row in results.rows if row.method in labels]
        head, rows = difference_rows(comparisons(of_baseline, baseline, retrained=results.retrained))
        if rows:
            parts += [f"## Difference to {baseline}, pair by pair", table(head, rows)]
    chosen_by = f" What its name does not tell was chosen by [{study.tuned}]({study.tuned}.md)." if study.tuned else ""
    drawn = pictures(results)
    for picture in drawn:
        if study.pictures is None or picture.name in study.pictures:
            (folder / f"{study.name}-{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
            parts += [f"## {picture.title}", f"![{picture.title}]({study.name}-{picture.name}.svg)", picture.caption]
    for title, head, rows, text in (
        (
            "Groups of DTVG",
            *group_rows(results),
            "Share of updates that merge the source (seeds that end with it).",
        ),
        ("Source prompts", *source_rows(results), "Scores of the sources on their own test rows."),
        ("Cost", *cost_rows(results), "Of one target and seed, target stage; seconds are medians and depend on load."),
        ("Settings", *settings_rows(study), f"What an entry sets; all else is as in the list below.{chosen_by}"),
    ):
        if rows:
            parts += [f"## {title}", text, table(head, rows, text=2 if title == "Settings" else 1)]
    parts += [f"- errors: {error}" for error in content["errors"]]
    common = {name: value for name, value in study.settings.items() if name not in ("sources", "targets", "seeds")}
    parts += ["## Origin", origin(content), f"Common settings: {settings_text(common)}."]
    parts.append(f"Every row: [{study.name}.csv]({study.name}.csv); all cells: `{ARCHIVES}/{study.name}.json.xz`.")
    (folder / f"{study.name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_index(studies: Sequence[Study], folder: Path) -> None:
    """Write README.md: the protocol, and for every study the mean differences to PT.

    Reads the CSV files in `folder`, so it includes studies whose cells are on another machine.
    """
    parts = ["# Results", "Made by `make evidence`; nothing on these pages is typed by hand.", PROTOCOL]
    for study in studies:
        path = folder / f"{study.name}.csv"
        if not path.is_file():
            continue
        results = Results(folder, _read_csv(path))
        compared = comparisons(results.rows, BASELINE, retrained=study.config.retrain_sources)
        differences = {comparison.method: comparison.mean_texts() for comparison in compared}
        rows = [
            [label, mean_text(results, results.mean(label)), *differences.get(label, [""] * 3)]
            for label in results.methods
            if study.entries[label].against == BASELINE
        ]
        head = ["method", "mean score", *mean_heads("difference to PT")]
        scored, cells = len(results.rows), len(study.cells)
        state = "" if scored == cells else f" {scored} of {cells} cells have a score."
        title = f"## [{study.name}]({study.name}.md)"
        parts += [title, f"{study.about}{state} Targets: {', '.join(results.targets)}.", table(head, rows)]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def write_tuning(chosen: Mapping[str, Any], path: Path) -> None:
    """Write the page of a tuning: every setting that was tried, with its validation scores."""
    settings = chosen["settings"]
    targets = settings["targets"]
    parts = [
        f"# Choice of the settings: {path.stem}",
        "Every method gets as many settings to try. Scores are on validation rows, per cent, means over seeds that are "
        f"not reported: {', '.join(map(str, settings['seeds']))}; {settings['train_rows']:,} training rows per target "
        f"at most, {settings['target_updates']} updates. The best mean over targets, in bold, is used; the "
        f"[overview](README.md) tells where. The same numbers: `{ARCHIVES}/{path.stem}.json`.",
    ]
    for method in chosen["best"]:
        tried = [row for row in chosen["tried"] if row["method"] == method]
        best = next(row for row in tried if row["mean"] is not None and row["settings"] == chosen["best"][method])
        rows = [
            [
                f"**{settings_text(row['settings'])}**" if row is best else settings_text(row["settings"]),
                *(f"{row['scores'][target]:.1f}" if target in row["scores"] else "diverged" for target in targets),
                "-" if row["mean"] is None else f"{row['mean']:.2f}",
            ]
            for row in tried
        ]
        parts += [f"## {method}", table(["settings", *targets, "mean"], rows)]
    parts += ["## Origin", origin(chosen)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """A Markdown table. The first `text` columns are left-aligned."""
    lines = [list(head), [*["---"] * text, *["---:"] * (len(head) - text)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def group_rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of how often each source was merged, by method and target."""
    sources = results.content["settings"]["sources"]
    rows = []
    for method in results.methods:
        for target in results.targets:
            logs = [history["groups"] for history in results.histories(method, target) if history.get("groups")]
            if logs:
                cells = []
                for source in sources:
                    share = fmean(source in group for log in logs for _, group in log)
                    last = sum(source in log[-1][1] for log in logs)
                    cells.append(f"{100 * share:.0f} % ({last} of {len(logs)})")
                rows.append([f"{method}: {target}", *cells])
    return ["target", *sources], rows


def settings_rows(study: Study) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of every entry's own settings."""
    lines = [[label, settings_text(entry.settings) or "-"] for label, entry in study.entries.items()]
    return ["entry", "settings"], lines


def origin(content: Mapping[str, Any]) -> str:
    """Model, commit, machines and versions as a list."""
    lines = [f"- model: {content['model']}", f"- commit: {content['commit'] or 'unknown'}"]
    for machine in content["machines"]:
        lines.append(f"- machine: {', '.join(f'{name} {value}' for name, value in machine.items())}")
    lines.append(f"- versions: {', '.join(f'{name} {version}' for name, version in content['versions'].items())}")
    return "\n".join(lines)


def _read_csv(path: Path) -> list[TargetRow]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(map(row_of_csv, csv.DictReader(file)))
