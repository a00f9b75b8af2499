"""python -m tools.scaling measure [--small] [--json docs/measurements/scaling.json]: about six minutes
python -m tools.scaling page: writes docs/scaling.md and its picture from docs/measurements/{scaling,library}.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.library import timed
from promptkernels.bench.machine import facts
from promptkernels.bench.memory import peak_bytes
from tools.scaling import operations, page
from tools.scaling.points import Point, make, memory_terms, points, time_terms
from tools.scaling.tasks import many_tasks

DOCS = Path(__file__).parents[2] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["measure", "page"])
    parser.add_argument("--small", action="store_true", help="a few small points, to try it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=DOCS / "measurements" / "scaling.json")
    parser.add_argument("--library", type=Path, default=DOCS / "measurements" / "library.json")
    parser.add_argument("--into", type=Path, default=DOCS / "scaling.md")
    options = parser.parse_args()
    if options.command == "page":
        page.write(_read(options.json), _read(options.library), options.into)
        return
    content = measure(options.small, options.rounds)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def measure(small: bool, rounds: int) -> dict[str, Any]:
    content: dict[str, Any] = {"machine": facts(torch.device("cpu")), "points": []}
    for point in list(points())[:: 9 if small else 1]:
        if small and point.use == "beyond":
            continue
        content["points"].append(measured := {**asdict(point), **_point(point, rounds)})
        print(f"{point.method} {_varied(point)}: {1e3 * measured['seconds']:.1f} ms", flush=True)
    content["operations"] = operations.measured(64 if small else 1024, rounds)
    content["tasks"] = many_tasks((2, 4) if small else (10, 30, 90))
    return content


def _point(point: Point, rounds: int) -> dict[str, Any]:
    call = make(point)
    call()
    return {
        "seconds": median(timed(call) for _ in range(rounds)),
        "peak_bytes": peak_bytes(call, torch.device("cpu")),
        "time_terms": time_terms(point),
        "memory_terms": memory_terms(point),
    }


def _varied(point: Point) -> str:
    return " ".join(f"{axis}={value}" for axis, value in asdict(point).items() if axis not in ("method", "use"))


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
