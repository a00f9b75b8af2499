"""Results of a benchmark: a table on the screen, CSV, JSON with the machine, and a picture."""

from __future__ import annotations

import csv
import json
import math
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import promptkernels as pk
from promptkernels.bench.measure import OURS, Measurement


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    found = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "promptkernels": pk.__version__,
    }
    return {**found, **{f"backend {name}": status.facts for name, status in pk.backends().items() if status.available}}


def table(rows: Sequence[Measurement]) -> str:
    """Ours first in every case, each peer with its time over ours (above 1: we are faster)."""
    lines, last = [], None
    for row in rows:
        if (row.case, row.mode) != last:
            last = (row.case, row.mode)
            lines.append(f"\n{row.case}, {row.mode}")
        ratio = "" if row.contestant == OURS else f"{row.ratio:8.2f} x"
        lines.append(
            f"  {row.contestant:<20}{row.median_us:>12.1f} us  {row.gigabytes_per_second:>7.1f} GB/s"
            f"  error {row.error:8.1e}{ratio}"
        )
    return "\n".join([*lines, "", *geometric_means(rows)])


def geometric_means(rows: Sequence[Measurement]) -> list[str]:
    """One line per peer: the geometric mean and the worst of its time over ours."""
    lines = []
    for name in dict.fromkeys(row.contestant for row in rows if row.contestant != OURS):
        ratios = [row.ratio for row in rows if row.contestant == name]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        lines.append(f"{name:<22}geometric mean {mean:6.2f} x, least {min(ratios):6.2f} x over {len(ratios)} cases")
    return lines


def write(rows: Sequence[Measurement], facts: dict[str, Any], folder: Path) -> None:
    """results.csv, results.json and, with matplotlib, speedup.png."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = [{**asdict(row), "sizes": json.dumps(row.sizes)} for row in rows]
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
    content = {"machine": facts, "rows": [asdict(row) for row in rows]}
    (folder / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    try:
        import matplotlib
    except ImportError:
        return
    matplotlib.use("Agg")
    _picture(rows, facts, folder / "speedup.png")


def _picture(rows: Sequence[Measurement], facts: dict[str, Any], path: Path) -> None:
    """A bar per peer and case: its time over ours, on a logarithmic axis with the break-even line."""
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row.contestant != OURS]
    labels = [f"{row.case}, {row.mode}: {row.contestant}" for row in shown]
    names = list(dict.fromkeys(row.contestant for row in shown))
    colours = {name: f"C{index}" for index, name in enumerate(names)}
    figure, axes = plt.subplots(figsize=(11, 1 + 0.2 * len(shown)), layout="constrained")
    axes.barh(range(len(shown)), [row.ratio for row in shown], color=[colours[row.contestant] for row in shown])
    axes.set_yticks(range(len(shown)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"time over that of promptkernels ({facts['device']}, {facts['threads']} threads)")
    figure.savefig(path, dpi=110)
    plt.close(figure)
