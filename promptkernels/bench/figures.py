"""Pictures of a run, from its results. Colour-blind readers can distinguish the colours, and shapes differ as well."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptkernels.bench.measure import BOTH, OURS, Measurement
from promptkernels.bench.peers import COMPILED
from promptkernels.bench.report import Results

# Okabe and Ito's colours.
_OURS, _COMPILED = "#0072B2", "#000000"
_PEERS = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKS = ("s", "^", "D", "v", "P")
_TITLES = {
    "similarity": "Cosine similarity of task vectors",
    "similarity_z": "Cosine similarity of task vectors and its z score",
    "svgd": "SVGD direction",
    "compose": "Low-rank prompts (compose)",
    "prepend": "Low-rank prompts in front of the input (prepend)",
    "group": "DTVG step",
}


def draw(results: Results, folder: Path, prefix: str = "") -> list[Path]:
    """Draw every picture for which the results have data, as PNG files; return their paths."""
    drawn = []
    for name, picture in {"speedup": speedup, "sweep": sweep, "spread": spread, "step": step}.items():
        figure = picture(results)
        if figure is not None:
            folder.mkdir(parents=True, exist_ok=True)
            drawn.append(folder / f"{prefix}{name}.png")
            figure.savefig(drawn[-1], dpi=120)
    return drawn


def _style(contestants: list[str]) -> dict[str, dict[str, str]]:
    """Colour and mark of each contestant by its index among the peers. Ours and torch.compile always look the same."""
    styles = {OURS: {"color": _OURS, "marker": "o"}, COMPILED: {"color": _COMPILED, "marker": "x"}}
    others = [name for name in contestants if name not in styles]
    return styles | {n: {"color": c, "marker": m} for n, c, m in zip(others, _PEERS, _MARKS, strict=False)}


def _names(rows: list[Measurement]) -> list[str]:
    return list(dict.fromkeys(row.contestant for row in rows))


def _frame(axes: Axes, **labels: str) -> None:
    axes.set(**labels)
    axes.grid(True, which="major", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def speedup(results: Results) -> Figure | None:
    """One panel per operation, with a line per case that shows each peer's time over ours."""
    rows = [row for row in results.cases if row.kind == "peer"]
    if not rows:
        return None
    panels = {op: [row for row in rows if row.op == op] for op in dict.fromkeys(row.op for row in rows)}
    lines = {op: list(dict.fromkeys((row.case, row.mode) for row in panel)) for op, panel in panels.items()}
    height = sum(0.24 * len(case) + 1.0 for case in lines.values())
    figure = Figure(figsize=(9, height + 0.3), layout="constrained")
    all_axes = figure.subplots(
        len(panels), squeeze=False, sharex=True, height_ratios=[len(case) + 1.5 for case in lines.values()]
    )[:, 0]
    for axes, (op, panel) in zip(all_axes, panels.items(), strict=True):
        styles = _style(_names(panel))
        for name in _names(panel):
            own = [row for row in panel if row.contestant == name]
            places = [lines[op].index((row.case, row.mode)) for row in own]
            axes.scatter([row.ratio for row in own], places, 38, label=name, zorder=3, **styles[name])
        labels = [case.removeprefix(f"{op} ") + (", backward too" if mode == BOTH else "") for case, mode in lines[op]]
        axes.axvspan(1e-9, 1, color="#D55E00", alpha=0.08)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xscale("log")
        axes.set_yticks(range(len(labels)), labels, fontsize=9)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.set_title(_TITLES.get(op, op), loc="left", fontsize=11)
        axes.tick_params(axis="x", labelbottom=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} x")
        _frame(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    ratios = [row.ratio for row in rows]
    all_axes[0].set_xlim(min(0.8, 0.8 * min(ratios)), 1.4 * max(ratios))
    all_axes[-1].set_xlabel(f"time over that of {OURS}; right of the line {OURS} is faster\n{results.where}")
    return figure


def sweep(results: Results) -> Figure | None:
    """Time of a forward pass by prompt size, with the time of its least memory traffic."""
    if not results.sweep:
        return None
    panels = {op: [row for row in results.sweep if row.op == op] for op in dict.fromkeys(r.op for r in results.sweep)}
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    for axes, (op, panel) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        names = _names([row for row in panel if row.kind != "floor"])
        styles = _style(names)
        for name in names:
            own = [row for row in panel if row.contestant == name]
            sizes, times = [_flat_size(row) for row in own], [row.median_us for row in own]
            axes.plot(sizes, times, label=name, markersize=5, linewidth=2.2 if name == OURS else 1.2, **styles[name])
        ours = [row for row in panel if row.contestant == OURS]
        bandwidth = results.machine["copy_gigabytes_per_second"]
        roofline = [row.least_bytes / bandwidth / 1e3 for row in ours]
        label = f"least traffic at {bandwidth:g} GB/s"
        axes.plot([_flat_size(row) for row in ours], roofline, "--", color="gray", label=label)
        rows = next(iter(ours[0].sizes.items()))
        axes.set(xscale="log", yscale="log", title=f"{_TITLES.get(op, op)}, {rows[0]} = {rows[1]}")
        axes.margins(y=0.12)
        _frame(axes, xlabel="numbers per prompt, D = L H", ylabel="time of a forward pass (µs)")
        axes.legend(fontsize=8, framealpha=0.9, edgecolor="none")
    figure.supxlabel(results.where, fontsize=9)
    return figure


def _flat_size(row: Measurement) -> int:
    return row.sizes["L"] * row.sizes["H"]


def spread(results: Results) -> Figure | None:
    """Relative error of the SVGD direction by relative spread of its particles."""
    if not results.spread:
        return None
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(row.contestant for row in results.spread))
    styles = _style(names)
    for name in names:
        rows = [row for row in results.spread if row.contestant == name and row.error is not None]
        spreads, errors = [row.spread for row in rows], [row.error for row in rows]
        axes.plot(spreads, errors, label=name, linewidth=2.2 if name == OURS else 1.4, **styles[name])
    axes.axvline(0.01, color="gray", linestyle=":", linewidth=1)
    axes.annotate(
        "tuned prompts:\nabout 1 %",
        (0.01, 0.97),
        (4, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=9,
        color="0.3",
    )
    axes.set(xscale="log", yscale="log")
    _frame(
        axes,
        xlabel="distance of the particles from their common start, over its size",
        ylabel="relative error of φ against float64",
        title="SVGD direction in float32: 16 particles of 76,800 numbers",
    )
    axes.legend(frameon=False)
    return figure


def step(results: Results) -> Figure | None:
    """Share of a training step spent on the prompt, forward and backward, and the whole step relative to PT."""
    rows = [row for row in results.step if row.method != "PT"]
    if not rows:
        return None
    figure = Figure(figsize=(9, 1.2 + 0.42 * len(rows)), layout="constrained")
    axes = figure.subplots()
    colours = [_OURS if row.form == OURS else _PEERS[0] for row in rows]
    bars = axes.barh(range(len(rows)), [100 * row.share for row in rows], color=colours, height=0.65)
    for bar, row in zip(bars, rows, strict=True):
        text = f"{100 * row.share:.2g} %, step {row.ratio:.2f} x that of plain prompt tuning"
        place = (bar.get_width(), bar.get_y() + bar.get_height() / 2)
        axes.annotate(text, place, (5, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [f"{row.method}: {row.form}" for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 190 * max(row.share for row in rows))
    _frame(axes, xlabel=f"share of a training step spent on the prompt (%)\n{results.where}")
    axes.set_title("A random Llama of SmolLM2-135M's sizes", loc="left", fontsize=11)
    return figure
