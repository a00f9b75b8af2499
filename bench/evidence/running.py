"""Run a study cell by cell. A cell is one entry on one target and seed, with its own file.

Finished cells are not run again, and all stages go through the store, so stages shared by cells or studies are computed
once. Several processes may run parts of a study, which consists of the files of all of them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.evidence.studies import PLACES, Study
from prompttransfer import RunConfig
from prompttransfer.files.durable import write_json
from prompttransfer.files.progress import ProgressReporter, Work
from prompttransfer.methods import METHODS, Context, EncodedTask
from prompttransfer.methods.context import CODE_VERSION
from prompttransfer.report import Results
from prompttransfer.runs.jobs import score_source
from prompttransfer.runs.rows import SourceRow, TargetRow, read_row
from prompttransfer.runs.run_folder import machine_facts
from prompttransfer.runs.workbench import Workbench
from prompttransfer.training.divergence import Diverged


def run_study(
    study: Study,
    folder: Path,
    progress: ProgressReporter,
    *,
    seeds: Collection[int] = (),
    targets: Collection[str] = (),
    labels: Collection[str] = (),
) -> None:
    """Run the cells of a study, or those of some seeds, targets and labels, into files below `folder`.

    Raises:
        ValueError: the study does not have a seed, target or label.
    """
    config = study.config
    for kind, requested, known in (
        ("seeds", seeds, config.seeds),
        ("targets", targets, config.targets),
        ("methods", labels, tuple(study.entries)),
    ):
        unknown = [str(value) for value in requested if value not in known]
        if unknown:
            raise ValueError(f"{study.name} has {kind} {', '.join(map(str, known))}; got {', '.join(unknown)}")
    cells = [
        cell
        for cell in study.cells
        if all(not wanted or part in wanted for part, wanted in zip(cell, (seeds, targets, labels), strict=True))
    ]
    work = Workbench(config, _OnlyStages(progress))
    facts = {
        "version": CODE_VERSION,
        "model": config.model,
        "model_fingerprint": work.backbone.fingerprint,
        **machine_facts(work.backbone),
    }
    asked = len(cells)
    cells = [cell for cell in cells if not _is_done(study, folder, cell, facts)]
    progress.note(f"{study.name}: {asked} cells of {len(study.cells)}, {asked - len(cells)} are done")
    durations: list[float] = []
    base: Context | None = None
    sources: list[dict[str, Any]] | None = None
    for place, (seed, name, label) in enumerate(cells):
        if base is None or base.seed != seed:
            base, sources = work.context(seed), None
        target = next(task for task in base.targets if task.name == name)
        started = time.monotonic()
        entry = study.entries[label]
        if sources is None and study.config_of(label).source_prompts:
            sources = [score_source(base, source)[0].facts() for source in base.sources]
        cell = _cell(replace(base, config=study.config_of(label)), target, entry.method, label, folder)
        settings = study.facts_of(label)
        write_json(_path(folder, label, name, seed), {"settings": settings, **facts, "sources": sources or [], **cell})
        durations.append(time.monotonic() - started)
        outcome = cell["error"] or f"{cell['row']['score']:.1f}"
        progress.note(
            f"{study.name} {place + 1}/{len(cells)}: {label} on {name}, seed {seed}: {outcome}; "
            f"{_left(durations, len(cells) - place - 1)}"
        )


def collect(study: Study, folder: Path) -> Results:
    """Collect the finished cells of a study, from all processes, as the results of a run."""
    rows: list[TargetRow] = []
    sources: dict[tuple[str, int], SourceRow] = {}
    cells = []
    for seed, target, label in sorted(study.cells, key=lambda cell: list(study.entries).index(cell[2])):
        cell = _read(study, folder, (seed, target, label))
        if not cell:
            continue
        cells.append(cell)
        for facts in (*cell["sources"], *filter(None, [cell["row"]])):
            row = read_row(facts, _path(folder, label, target, seed))
            if isinstance(row, SourceRow):
                sources[row.source, row.seed] = row
            else:
                rows.append(row)
    order, names = list(study.config.targets), list(study.config.sources)
    rows.sort(key=lambda row: order.index(row.target))
    source_rows = sorted(sources.values(), key=lambda row: (names.index(row.source), row.seed))
    content = {
        "format": 1,
        **{name: cells[0][name] for name in ("model", "model_fingerprint", "versions") if cells},
        "commit": ", ".join(dict.fromkeys(cell["commit"] for cell in cells)),
        "machine": cells[0]["machine"] if cells else {},
        "machines": list({json.dumps(cell["machine"], sort_keys=True): cell["machine"] for cell in cells}.values()),
        "settings": study.config.model_dump(mode="json", exclude=PLACES),
        "sources": [row.facts() for row in source_rows],
        "rows": [row.facts() for row in rows],
        "cells": len(study.cells),
        "errors": [cell["error"] for cell in cells if cell["error"]],
        "finished": len(cells) == len(study.cells),
    }
    write_json(folder / "results.json", content)
    return Results(folder, rows, source_rows, content)


def _is_done(study: Study, folder: Path, cell: tuple[int, str, str], facts: Mapping[str, Any]) -> bool:
    done = _read(study, folder, cell)
    return done is not None and bool(done["model_fingerprint"] == facts["model_fingerprint"])


def _read(study: Study, folder: Path, cell: tuple[int, str, str]) -> dict[str, Any] | None:
    """Read a cell; None if it is missing, or was written with other settings or by code with other results."""
    seed, target, label = cell
    path = _path(folder, label, target, seed)
    if not path.is_file():
        return None
    cell_content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = _same_settings(cell_content["settings"], study.facts_of(label)) and cell_content["version"] == CODE_VERSION
    return cell_content if same else None


def _cell(ctx: Context, target: EncodedTask, method: str, label: str, folder: Path) -> dict[str, Any]:
    """Train and score. A loss that is no longer finite ends only this cell, not the study."""
    zero_shot = ctx.evaluate(f"{target.name}: zero-shot", target, None)
    try:
        result = METHODS[method].run(ctx.of(target, method), target)
    except Diverged as error:
        return {"row": None, "error": f"{label} on {target.name}, seed {ctx.seed}: {error}"}
    evaluation = ctx.evaluate(f"{target.name}: score of {label}", target, result.evaluated)
    row = TargetRow.of(label, target, ctx.seed, result, evaluation, zero_shot)
    write_json(folder / "history" / f"{row.name}.json", result.history)
    return {"row": row.facts(), "error": ""}


def _same_settings(cell: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether a cell was run with the wanted settings. Settings that did not exist then had their default's effect."""
    try:
        return RunConfig(**{"transfer_from": "all"} | cell).model_dump(mode="json", exclude=PLACES) == wanted
    except ValueError:
        return False


def _path(folder: Path, label: str, target: str, seed: int) -> Path:
    return folder / "cells" / f"{label}-{target}-seed{seed}.json"


def _left(durations: list[float], cells: int) -> str:
    """Estimated time left, from the cells of this process whose stages were not in the store."""
    worked = [seconds for seconds in durations if seconds > 1] or durations
    minutes = cells * median(worked) / 60
    return f"about {minutes / 60:.1f} h left" if minutes > 90 else f"about {minutes:.0f} min left"


class _OnlyStages(ProgressReporter):
    """Shows bars of running stages, without notes on reused ones, which would be thousands of lines."""

    def __init__(self, progress: ProgressReporter) -> None:
        self._progress = progress

    def stage(self, title: str, total: int) -> Work:
        return self._progress.stage(title, total)
