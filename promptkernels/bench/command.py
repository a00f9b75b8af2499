"""The command line of the benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from promptkernels.bench.cases import chosen
from promptkernels.bench.measure import copy_bandwidth, measure
from promptkernels.bench.report import machine, table, write


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m promptkernels bench",
        description="Times the operations against the forms people use today, in one run; each result is verified "
        "against float64 first. Ratios are the peer's time over ours: above 1 we are faster.",
    )
    parser.add_argument("cases", nargs="*", help="words of case names, for instance: svgd prepend H=768 (default: all)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="timing per case (default: 3)")
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile of the plain forms")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"), help="folder for CSV, JSON and picture")
    options = parser.parse_args(arguments)
    try:
        cases = chosen(options.cases)
    except ValueError as error:
        parser.error(str(error))
    device = torch.device(options.device)
    facts = {**machine(device), "copy_gigabytes_per_second": round(copy_bandwidth(device) / 1e9, 1)}
    print(f"{facts['device']}, {facts['threads']} threads, copy {facts['copy_gigabytes_per_second']} GB/s")
    rows = []
    for case in cases:
        for backward in (False, True) if case.leaves else (False,):
            torch._dynamo.reset()
            found = measure(
                case, backward=backward, device=device, seconds=options.seconds, compiled=not options.no_compile
            )
            rows += found
            print(table(found).rsplit("\n\n", 1)[0].lstrip("\n"), flush=True)
    print(table(rows).rsplit("\n\n", 1)[1])
    write(rows, facts, options.output)
    print(f"\nwritten to {options.output}")
    return 0
