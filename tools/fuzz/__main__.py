"""See `python -m tools.fuzz --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tools.fuzz import running

ABOUT = """Pass arbitrary inputs to readers, and report how many were accepted and refused.

A child process runs atheris (libFuzzer). If it crashes, hangs for more than 20 seconds, gives a wrong answer or refuses
without saying why, the input is kept and its path is printed. --replay FILE runs it again.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m tools.fuzz", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="+", choices=[*running.TARGETS, "all"], metavar="TARGET",
                        help=f"all, or some of {', '.join(running.TARGETS)}")  # fmt: skip
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs per target")
    parser.add_argument("--seed", type=int, default=1, help="seed of the mutations, from 1")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="folder for inputs that are findings")
    parser.add_argument("--replay", type=Path, help="run this one input in this process")
    options = parser.parse_args()
    names = list(running.TARGETS) if "all" in options.target else options.target
    if options.replay:
        accepted = running.target(names[0]).check(options.replay.read_bytes())
        print("accepted" if accepted else "refused, as it should be")
        return
    print(f"{'target':16} {'inputs':>9} {'accepted':>9} {'refused':>9} {'per second':>10}  findings")
    findings = 0
    for name in names:
        start = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
            outcome = running.fuzz(name, options.inputs, options.seed, Path(scratch), options.keep)
        total, rate = outcome.accepted + outcome.refused, outcome.inputs / (time.monotonic() - start)
        numbers = f"{total:9,} {outcome.accepted:9,} {outcome.refused:9,} {rate:10,.0f}"
        print(f"{name:16} {numbers}  {outcome.finding or 'none'}", flush=True)
        if outcome.finding:
            findings += 1
            print(outcome.log, file=sys.stderr)
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
