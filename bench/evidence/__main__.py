"""See `python -m bench.evidence --help`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.evidence.archive import archive_of, pack, unpack
from bench.evidence.running import collect, run_study
from bench.evidence.studies import REPORTED, TUNING, Study, read_study
from bench.evidence.tuning import best_settings, choose
from bench.evidence.writing import write_index, write_study, write_tuning
from prompttransfer.files.durable import write_json
from prompttransfer.files.progress import Progress, ProgressReporter

RESULTS = Path(__file__).parents[2] / "docs" / "results"
ARCHIVES = Path(__file__).parent / "archives"


def main() -> None:
    options = _options()
    try:
        with Progress() as progress:
            for name, work in (("tune", tune), ("run", run), ("report", report)):
                if options.command in (name, "all"):
                    work(options, progress)
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command to resume")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


def tune(options: argparse.Namespace, progress: ProgressReporter) -> None:
    """Try every setting of the grids on validation rows, and write the best once no cell is missing."""
    for name in getattr(options, "tunings", None) or TUNING:
        study = read_study(name)
        folder = _folder(study, options)
        run_study(study, folder, progress, **_parts(options))
        results = collect(study, folder)
        pack(folder, archive_of(study, options.archives))
        if not results.content["finished"]:
            missing = results.content["cells"] - len(results.rows) - len(results.content["errors"])
            progress.note(f"{name}: {missing} cells are missing; nothing is chosen yet")
            continue
        chosen = choose(study, results)
        write_json(options.archives / f"{name}.json", chosen)
        write_tuning(chosen, options.results / f"{name}.md")
        progress.note(f"chosen settings: {options.archives / f'{name}.json'}")


def run(options: argparse.Namespace, progress: ProgressReporter) -> None:
    for study in _studies(options):
        run_study(study, _folder(study, options), progress, **_parts(options))


def report(options: argparse.Namespace, progress: ProgressReporter) -> None:
    """Write the pages of the studies that have cells here. Other pages stay as they are."""
    studies = _studies(options)
    for study in studies:
        folder = _folder(study, options)
        results = collect(study, folder)
        if results.rows:
            pack(folder, archive_of(study, options.archives))
            write_study(study, results, options.results)
    write_index(studies, options.results)
    progress.note(f"pages: {options.results / 'README.md'}")


def _folder(study: Study, options: argparse.Namespace) -> Path:
    """Folder of a study's cells, including published ones."""
    folder: Path = options.runs / study.name
    unpack(archive_of(study, options.archives), folder)
    return folder


def _studies(options: argparse.Namespace) -> list[Study]:
    names = getattr(options, "studies", None) or ["all"]
    best = best_settings(options.archives)
    return [read_study(name, best) for name in (REPORTED if "all" in names else names)]


def _parts(options: argparse.Namespace) -> dict[str, Any]:
    return {"seeds": options.seeds, "targets": options.targets, "labels": options.methods}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.evidence", description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/evidence"), help="folder of the cells")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the pages")
    parser.add_argument("--archives", type=Path, default=ARCHIVES, help="folder of the raw results")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("tune", "choose every method's settings on validation rows"),
        ("run", "run studies; after an interruption, the same command resumes"),
        ("report", "write the pages of the studies that have cells here"),
        ("all", "tune, run all studies, report"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        if name == "tune":
            command.add_argument("tunings", nargs="*", help=f"{', '.join(TUNING)}; default: all of them")
        if name == "run":
            command.add_argument("studies", nargs="+", help=f"{', '.join(REPORTED)}, or all")
        if name != "report":
            command.add_argument("--seeds", type=_numbers, default=(), help="only these, such as 1,2")
            command.add_argument("--targets", type=_names, default=(), help="only these")
            command.add_argument("--methods", type=_names, default=(), help="only these entries")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, _names(text)))


if __name__ == "__main__":
    main()
