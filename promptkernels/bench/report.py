"""Results of a benchmark, as files and on the screen."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from promptkernels.bench.measure import Measurement
from promptkernels.bench.step import StepCost
from promptkernels.bench.studies import SpreadError
from promptkernels.bench.targets import geometric_mean


@dataclass
class Results:
    """Everything that one run measured, and the facts that it depends on."""

    machine: dict[str, Any]
    cases: list[Measurement] = field(default_factory=list)
    sweep: list[Measurement] = field(default_factory=list)
    spread: list[SpreadError] = field(default_factory=list)
    step: list[StepCost] = field(default_factory=list)

    @property
    def where(self) -> str:
        """Short description of the machine, for captions."""
        count = self.machine["threads"]
        threads = f", {count} thread{'' if count == 1 else 's'}" if self.machine["device_type"] == "cpu" else ""
        return f"{self.machine['device']}{threads}"

    @property
    def busy(self) -> str:
        """A warning if other work was running when the run began, else empty.

        Only on a CPU: the load average does not affect a GPU.
        """
        load, cores = self.machine["load_average"], self.machine["cores"]
        if self.machine["device_type"] != "cpu" or load is None or load <= 0.25 * cores:
            return ""
        return f"The machine was busy (load average {load:.1f} on {cores} cores): times and ratios are not reliable."

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read the results.json of a run.

        Raises:
            ValueError: the file is not a results.json of this version.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                content["machine"],
                [Measurement(**row) for row in content["cases"]],
                [Measurement(**row) for row in content["sweep"]],
                [SpreadError(**row) for row in content["spread"]],
                [StepCost(**row) for row in content["step"]],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} must be a results.json of this version's benchmark: {error!r}") from error

    def completed_by(self, other: Results) -> Results:
        """These results, completed with missing parts from another run on the same machine.

        Raises:
            ValueError: the other run is from a different machine or type of device.
        """
        for name in ("device", "device_type"):
            if self.machine[name] != other.machine[name]:
                raise ValueError(
                    f"runs must be from the same machine, got {self.machine[name]!r} and {other.machine[name]!r}"
                )
        parts = ("cases", "sweep", "spread", "step")
        return Results(self.machine, *(getattr(self, part) or getattr(other, part) for part in parts))

    def write(self, folder: Path) -> None:
        """Write results.json with everything, and results.csv with a line per case, mode and contestant."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        rows = [self._flat(row) for row in (*self.cases, *self.sweep)]
        if not rows:
            return
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=columns)
            writer.writeheader()
            writer.writerows(rows)

    def _flat(self, row: Measurement) -> dict[str, Any]:
        """A line with sizes as columns, and with all facts that the numbers depend on, so that runs can be mixed."""
        flat = asdict(row)
        sizes = flat.pop("sizes")
        named = ("device", "threads", "commit", "torch", "python", "date", "copy_gigabytes_per_second")
        return {**flat, **sizes, **{name: self.machine[name] for name in named}}


def _width(names: Iterable[str]) -> int:
    """Width of a column of names, with a gap after the longest."""
    return max([22, *(len(name) + 2 for name in names)])


def table(rows: Sequence[Measurement]) -> str:
    """One case in one mode: ours, then each peer with its time over ours (above 1: ours is faster), then the floors."""
    lines = [f"{rows[0].case}, {rows[0].mode}"]
    width = _width(row.contestant for row in rows)
    for row in rows:
        remark = {
            "ours": f"[{row.backend}]",
            "peer": f"{row.ratio:.2f} x ours",
            "floor": f"ours is {1 / row.ratio:.2f} x",
        }
        error = "" if row.error is None else f"error {row.error:.1e}"
        lines.append(
            f"  {row.contestant:<{width}}{row.median_us:>12.1f} us{row.gigabytes_per_second:>9.1f} GB/s"
            f"{row.peak_bytes / 1e6:>9.2f} MB  {error:<15}{remark[row.kind]}"
        )
    return "\n".join(lines)


def geometric_means(rows: Sequence[Measurement]) -> list[str]:
    """One line per peer: the geometric mean and the minimum of its time over ours."""
    lines = []
    peers = [row for row in rows if row.kind == "peer"]
    width = _width(row.contestant for row in peers)
    for name in dict.fromkeys(row.contestant for row in peers):
        ratios = [row.ratio for row in peers if row.contestant == name]
        mean = geometric_mean(ratios)
        lines.append(
            f"{name:<{width}}geometric mean {mean:7.2f} x, least {min(ratios):7.2f} x over {len(ratios)} cases"
        )
    return lines
