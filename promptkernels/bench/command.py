"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from functools import reduce
from importlib.util import find_spec
from pathlib import Path

import torch

import promptkernels as pk
from promptkernels.backends.registry import BackendUnavailable, choose
from promptkernels.bench.cases import CASES, LARGE, chosen
from promptkernels.bench.machine import facts
from promptkernels.bench.markdown import insert, section
from promptkernels.bench.measure import Bench
from promptkernels.bench.report import Results, geometric_means, table
from promptkernels.bench.step import model, step_costs
from promptkernels.bench.studies import spread_errors, sweep
from promptkernels.bench.timing import copy_bandwidth

PARTS = ("cases", "sweep", "spread", "step")
_LARGE_NEEDS = 16 << 30  # bytes of GPU memory


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m promptkernels bench",
        description="Time the operations against other implementations in one run. Each result and gradient is first "
        "verified against float64. Ratios are the peer's time over ours: above 1, ours is faster.",
    )
    parser.add_argument(
        "words", nargs="*", help="only cases with one of these in their name, such as: svgd prepend H=768"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", choices=list(pk.backends()), help="force a backend (default: automatic)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all; with words of case names: cases")
    parser.add_argument("--seconds", type=float, default=3.0, help="timing per case and mode (default: 3)")
    parser.add_argument("--no-compile", action="store_true", help="do not time torch.compile of the plain forms")
    parser.add_argument(
        "--no-graphs", action="store_true", help="on a GPU: time plain calls instead of replayed CUDA graphs"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder (default: runs/bench)")
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="measure nothing; print tables of a results.json. Of several, each adds parts that the previous ones lack",
    )
    parser.add_argument(
        "--into", type=Path, metavar="PAGE", help="with --markdown: put tables and pictures into a page"
    )
    options = parser.parse_args(arguments)
    try:
        if options.markdown:
            return _document(reduce(Results.completed_by, map(Results.read, options.markdown)), options.into)
        if options.device == "cuda" and not torch.cuda.is_available():
            parser.error("--device cuda needs an NVIDIA GPU and a torch that sees it")
        with pk.use_backend(options.backend):
            return _measure(options)
    except (ValueError, BackendUnavailable) as error:
        parser.error(str(error))


def _document(results: Results, page: Path | None) -> int:
    if page is None:
        print(section(results))
    else:
        insert(results, page)
    return 0


def _measure(options: argparse.Namespace) -> int:
    device = torch.device(options.device)
    large = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory >= _LARGE_NEEDS
    cases = chosen(options.words, LARGE + CASES if large else CASES)
    parts = options.parts or (("cases",) if options.words else PARTS)
    warnings.filterwarnings(
        "ignore", category=FutureWarning, module=r"torch\."
    )  # warnings of torch.compile about itself
    choose(device.type, torch.float32)  # a forced backend that cannot run raises before anything is timed
    bandwidth = copy_bandwidth(device)
    results = Results({**facts(device), "copy_gigabytes_per_second": round(bandwidth / 1e9, 1)})
    print(f"{results.where}, copy {results.machine['copy_gigabytes_per_second']} GB/s, {results.machine['commit']}")
    if results.busy:
        print(results.busy)
    bench = Bench(device, bandwidth, options.seconds, not options.no_compile, not options.no_graphs)
    if "cases" in parts:
        for case in cases:
            for rows in bench.all_modes(case):
                results.cases += rows
                print(f"\n{table(rows)}", flush=True)
                results.write(options.output)  # keeps the measurements if a later case fails
        print("", *geometric_means(results.cases), sep="\n")
    if "sweep" in parts:
        for rows in sweep(bench):
            results.sweep += rows
            print(f"\n{table(rows)}", flush=True)
        results.write(options.output)
    if "spread" in parts:
        results.spread = spread_errors(device)
        print("\nerror of the SVGD direction against the spread of its particles")
        for row in results.spread:
            print(f"  spread {row.spread:<9.1e}{row.contestant:<16}{_number(row.error)}")
        results.write(options.output)
    if "step" in parts:
        _training_step(results, device)
    results.write(options.output)
    if find_spec("matplotlib"):
        from promptkernels.bench.figures import draw

        draw(results, options.output)
    else:
        print("\nno pictures: matplotlib is not installed")
    print(f"\nwritten to {options.output}")
    return 0


def _training_step(results: Results, device: torch.device) -> None:
    if not find_spec("transformers"):
        print("\nno training step: transformers is not installed")
        return
    print("\nshare of a training step (random Llama of SmolLM2-135M's sizes)")
    for row in step_costs(device, model(device)):
        results.step.append(row)
        print(
            f"  {row.method:<6}{row.form:<16}{row.step_ms:>10.1f} ms  {row.ratio:.3f} x PT  "
            f"prompt {row.prompt_us:.0f} us, {100 * row.share:.2f} % of the step",
            flush=True,
        )


def _number(error: float | None) -> str:
    return "no number" if error is None else f"{error:.1e}"
