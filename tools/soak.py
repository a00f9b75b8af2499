"""Soak test: repeat a run of all methods, its report, a library and all operations. Memory must not grow.

python -m tools.soak --minutes 60 [--limit 16] [--json FILE]

A round runs `compare` with every method on a toy model (a causal and an encoder-decoder one in turn) from an empty
store, writes the report, adds the prompts to a library and looks for similar ones, and runs every operation forward
and backward. After each round the memory of the process (resident set), its open files, threads and child processes
are counted. It fails when

- resident memory grows by more than the limit (MiB) from the end of the warm-up, a quarter of the time, to the end. The
  growth is the Theil-Sen slope, which is robust to outliers, times that span;
- there are more files, threads or children at the end than at the end of the warm-up;
- the scores of a round differ from those of the first round with the same model.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from scipy.stats import theilslopes

from bench.toy import write_model, write_tasks
from promptkernels.bench.cases import Case, compose, group, incoming_gradient, prepend, run, similarity, svgd
from prompttransfer import RunConfig
from prompttransfer.interchange import read_card, read_prompt
from prompttransfer.library import Library
from prompttransfer.methods import METHODS
from prompttransfer.report import write_report
from prompttransfer.runs.compare import compare

LIMIT_MIB = 16.0
COUNTS = ("files", "threads", "children")
OPERATIONS: list[Case] = [
    similarity(6, 20, 64),
    similarity(80, 20, 64),
    svgd(5, 20, 64),
    compose(8, 4, 20, 64, 10, 2),
    prepend(8, 4, 20, 64, 10, 2),
    group(6, 20, 64),
]


@dataclass(frozen=True)
class Sample:
    """seconds: since the start; rss: bytes."""

    seconds: float
    rss: int
    files: int
    threads: int
    children: int


def sample(seconds: float) -> Sample:
    process = psutil.Process()
    return Sample(
        seconds,
        process.memory_info().rss,
        process.num_fds(),
        process.num_threads(),
        len(process.children(recursive=True)),
    )


def after_warm_up(samples: Sequence[Sample]) -> list[Sample]:
    """Samples from the last three quarters of the time."""
    return [one for one in samples if one.seconds >= samples[-1].seconds / 4]


def growth_mib(samples: Sequence[Sample]) -> float:
    """Growth of resident memory over the span of at least two samples, in MiB."""
    slope = theilslopes([one.rss for one in samples], [one.seconds for one in samples]).slope
    return float(slope * (samples[-1].seconds - samples[0].seconds) / 2**20)


def complaints(samples: Sequence[Sample], limit_mib: float) -> list[str]:
    """Messages about growth. Needs at least four samples after the warm-up."""
    kept = after_warm_up(samples)
    if len(kept) < 4:
        return [f"only {len(kept)} rounds after the warm-up; want a longer run"]
    problems = []
    if (growth := growth_mib(kept)) > limit_mib:
        problems.append(f"resident memory grows by {growth:.1f} MiB in {len(kept)} rounds, more than {limit_mib:g}")
    for name in COUNTS:
        first, last = getattr(kept[0], name), getattr(kept[-1], name)
        if last > first:
            problems.append(f"{name}: {first} at the end of the warm-up, {last} at the end")
    return problems


class Work:
    """The work of a round, in its own folder.

    Raises:
        RuntimeError: the scores of a round differ from those of the first round with its model.
    """

    def __init__(self, folder: Path, methods: Sequence[str] = tuple(METHODS)) -> None:
        self.folder, self.methods = folder, tuple(methods)
        self.models = [write_model(folder / family, family) for family in ("llama", "t5")]
        self.tasks = write_tasks(folder / "tasks", ["one", "two", "three"], rows=48)
        self.scores: dict[Path, list[Any]] = {}
        self.updates = 0

    def round(self, number: int) -> None:
        model = self.models[number % len(self.models)]
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            run_folder = compare(self._config(model, Path(scratch)))
            rows = json.loads((run_folder / "results.json").read_text(encoding="utf-8"))["rows"]
            write_report(run_folder)
            self._search(run_folder, Path(scratch) / "library")
        scores = [(row["method"], row["target"], row["score"]) for row in rows]
        if (first := self.scores.setdefault(model, scores)) != scores:
            different = [f"{a} became {b}" for a, b in zip(first, scores, strict=True) if a != b]
            raise RuntimeError(f"round {number}: {'; '.join(different)}")
        self.updates += sum(row["target_updates"] for row in rows)
        operations()

    def _config(self, model: Path, scratch: Path) -> RunConfig:
        return RunConfig(
            model=str(model),
            sources=tuple(self.tasks[:2]),
            targets=tuple(self.tasks[2:]),
            methods=self.methods,
            seeds=(42,),
            prompt_length=4,
            train_rows=12,
            test_rows=12,
            source_updates=4,
            target_updates=4,
            batch_size=4,
            source_batch_size=4,
            checkpoint_updates=2,
            precision="float32",
            output=scratch / "run",
            cache=scratch / "stages",
        )

    def _search(self, run_folder: Path, folder: Path) -> None:
        folder.mkdir()
        names = Library(folder).add_run(run_folder)
        library = Library.open(folder)
        path = library.entries[names[0]].path
        library.similar(read_prompt(path)[0], read_card(path), but=path)


def operations() -> None:
    """Run every operation forward, and backward if it has a gradient."""
    for case in OPERATIONS:
        inputs = case.make(torch.device("cpu"))
        run(case.ours, inputs)
        if case.leaves:
            for name in case.leaves:
                inputs[name].requires_grad_()
            run(case.ours, inputs, case.leaves, incoming_gradient(case.ours, inputs))


def soak(minutes: float, folder: Path, say: Any = print) -> tuple[list[Sample], Work]:
    """Run rounds until the time is over, and take a sample after each."""
    work, samples, started, last_report = Work(folder), [], time.monotonic(), 0.0
    while not samples or samples[-1].seconds < 60 * minutes:
        work.round(len(samples))
        gc.collect()
        samples.append(sample(time.monotonic() - started))
        if samples[-1].seconds - last_report >= min(60, 6 * minutes):
            last_report = samples[-1].seconds
            last = samples[-1]
            counts = ", ".join(f"{getattr(last, name)} {name}" for name in COUNTS)
            say(f"{last_report / 60:6.1f} min: {len(samples)} rounds, {last.rss / 2**20:.0f} MiB, {counts}")
    return samples, work


def summary(samples: Sequence[Sample], work: Work) -> dict[str, Any]:
    kept = after_warm_up(samples)
    return {
        "minutes": round(samples[-1].seconds / 60, 1),
        "rounds": len(samples),
        "target_updates": work.updates,
        "rss_mib_warm": round(kept[0].rss / 2**20, 1),
        "rss_mib_median": round(statistics.median(one.rss for one in kept) / 2**20, 1),
        "rss_mib_end": round(samples[-1].rss / 2**20, 1),
        "growth_mib": round(growth_mib(kept), 2) if len(kept) > 1 else None,
        **{name: [getattr(kept[0], name), getattr(samples[-1], name)] for name in COUNTS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog=__doc__.split("\n\n", 2)[2], formatter_class=_Help
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--limit", type=float, default=LIMIT_MIB, help="MiB (default %(default)s)")
    parser.add_argument("--json", type=Path, help="write the summary and all samples")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        os.environ["PROMPTTRANSFER_CACHE"] = str(Path(folder) / "cache")
        samples, work = soak(options.minutes, Path(folder), lambda line: print(line, flush=True))
    problems, facts = complaints(samples, options.limit), summary(samples, work)
    print("; ".join(f"{name} {value}" for name, value in facts.items()))
    if options.json:
        content = {**facts, "limit_mib": options.limit, "complaints": problems, "samples": [asdict(s) for s in samples]}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if problems:
        sys.exit("\n".join(f"error: {text}" for text in problems))
    print(f"no growth: {facts['growth_mib']} MiB after the warm-up, at most {options.limit:g} allowed")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the module docstring."""


if __name__ == "__main__":
    main()
