"""The pages below docs/results: Markdown that a code host renders, CSV with every row, and pictures."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.evidence.studies import BASELINE, Study
from bench.evidence.transfer import correlations, gain_picture, gain_rows, gains, harm_rows
from bench.evidence.tuning import settings_text
from prompttransfer.files.durable import write_csv
from prompttransfer.report import Results, pictures
from prompttransfer.report.statistics import comparisons, mean_heads
from prompttransfer.report.tables import cost_rows, difference_rows, mean_text, overview_rows, source_rows
from prompttransfer.runs.rows import TargetRow, csv_rows, row_of_csv

ARCHIVES = "bench/evidence/archives"
PROTOCOL = """\
Every method spends the same number of updates on the same target rows in the same batches. A method that first needs
something from the target (SPoT, DTVG: the target's own prompt) pays for it from that budget. No source holds a row
that overlaps with a test or validation row of a target. A seed draws the target's training rows and the batches.
Unless a page says otherwise, P_init and the source prompts are those of the first seed, so intervals do not include
the variation between sources.

Studies whose names start with *shipped* use the package's defaults, which were chosen on validation rows of other
seeds. In the others, settings were chosen for each method from grids of equal size, by the mean validation score over
the targets. The seeds used for this are not reported, and no test row was read: [tuning](tuning.md) for 16 and 32 rows
and for the parts of the methods, [tuning-full](tuning-full.md) for all rows.

Differences are taken between runs of the same target and seed, which saw the same rows and are scored on the same
rows. Brackets hold 95 % confidence intervals (CI) of Student's t. *Over seeds* covers other draws of training rows on
the same targets. *Over targets and seeds* covers other targets of this kind; with few targets it is wide."""


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
        f"At most {config.train_rows:,} training rows per target, {config.target_updates} updates of "
        f"{config.batch_size} rows; at most {config.test_rows} test rows; {config.prompt_length} prompt tokens. "
        f"Sources: {', '.join(config.sources)}; {config.source_updates} updates of {config.source_batch_size} rows "
        f"each. Seeds {', '.join(map(str, config.seeds))}; sources trained "
        f"{'again for every seed' if config.retrain_sources else f'once, with seed {source_seed}'}."
    )
    parts += [
        "## Scores",
        "Per cent; mean ± standard deviation over seeds. † one answer for 98 % of the rows or more.",
    ]
    parts.append(table(*overview_rows(results)))
    for baseline in dict.fromkeys(entry.against for entry in study.entries.values()):
        labels = {label for label, entry in study.entries.items() if entry.against == baseline} | {baseline}
        of_baseline = [row for row in results.rows if row.method in labels]
        compared = comparisons(of_baseline, baseline, retrained=results.retrained)
        head, rows = difference_rows(compared)
        if rows:
            parts += [f"## Difference to {baseline}, pair by pair", table(head, rows)]
        if rows and baseline == BASELINE:
            parts += [
                "Targets that transfer helps and hurts, by the mean over seeds, and by the interval over seeds:",
                table(*harm_rows(compared)),
            ]
    tuned = f" The settings that its name does not say were chosen by [{study.tuned}]({study.tuned}.md)."
    chosen_by = tuned if study.tuned else ""
    drawn, pairs = pictures(results), gains(results)
    if pairs:
        drawn.append(gain_picture(pairs, results.methods))
    for picture in drawn:
        if study.pictures is None or picture.name in study.pictures:
            (folder / f"{study.name}-{picture.name}.svg").write_text(picture.svg, encoding="utf-8")
            parts += [f"## {picture.title}", f"![{picture.title}]({study.name}-{picture.name}.svg)", picture.caption]
    for title, head, rows, text in (
        (
            "Similarity and gain",
            *gain_rows(pairs),
            "Targets by the largest z of a source, mean over seeds; the gain of a method is its difference to PT. "
            f"Rank correlation of z and gain over targets and seeds: {correlations(pairs)}.",
        ),
        (
            "Groups of DTVG",
            *group_rows(results),
            "Share of updates that merge the source (seeds that end with it).",
        ),
        ("Source prompts", *source_rows(results), "Scores of the sources on their own test rows."),
        (
            "Cost",
            *cost_rows(results),
            "For one target and seed, target stage only; seconds are medians and depend on load.",
        ),
        (
            "Settings",
            *settings_rows(study),
            f"What each entry sets; everything else is in the common settings below.{chosen_by}",
        ),
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
    parts = ["# Results", "`make evidence` writes these pages; nothing on them is typed by hand.", PROTOCOL]
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
        "Every method tries the same number of settings. Scores are means in per cent on validation rows, over seeds "
        f"that are not reported: {', '.join(map(str, settings['seeds']))}; at most {settings['train_rows']:,} training "
        f"rows per target, {settings['target_updates']} updates. The setting with the best mean over targets, in bold, "
        f"is used; the [overview](README.md) says where. The same numbers: `{ARCHIVES}/{path.stem}.json`.",
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
