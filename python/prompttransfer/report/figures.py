"""Pictures of a run. Each function returns a figure, or None when the run holds nothing to draw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from prompttransfer.report.results import Results
from prompttransfer.report.statistics import comparisons

# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#000000", "#F0E442")
_PANEL = (3.6, 2.9)  # inches
_BARS = 24  # side by side at most, so that their numbers can be read on a page


def scores(results: Results) -> Figure | None:
    """Bars of every method per target, over the lines of the majority class and of the model without a prompt."""
    if not results.rows:
        return None
    methods, targets = results.methods, results.targets
    in_a_row = min(len(targets), max(1, _BARS // len(methods)))
    lines = [targets[first : first + in_a_row] for first in range(0, len(targets), in_a_row)]
    width = max(6.0, 0.45 * len(methods) * in_a_row + 2.2)
    figure = Figure(figsize=(width, 4.0 if len(lines) == 1 else 2.6 * len(lines)), layout="constrained")
    panels = figure.subplots(len(lines), squeeze=False, sharey=True).ravel()
    for axes, names in zip(panels, lines, strict=True):
        _bars(axes, results, names)
        axes.set_xlim(-0.5, in_a_row - 0.5)
    cells = results.cells()
    low = min(min(cell.score, cell.majority, cell.zero_shot) for cell in cells)
    # A cut axis would exaggerate the differences, unless scores may be negative (correlations).
    panels[0].set_ylim(min(0.0, low), 108)
    figure.supylabel(f"score on {results.judged_on} rows (%)", fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _bars(axes: Axes, results: Results, targets: Sequence[str]) -> None:
    """Bars of some targets, side by side."""
    methods = results.methods
    width = 0.8 / len(methods)
    for turn, method in enumerate(methods):
        cells = [(place, results.cell(method, target)) for place, target in enumerate(targets)]
        found = [(place, cell) for place, cell in cells if cell]
        bars = axes.bar(
            [place - 0.4 + (turn + 0.5) * width for place, _ in found],
            [cell.score for _, cell in found],
            width * 0.92,
            yerr=[cell.std or 0.0 for _, cell in found] if any(cell.std for _, cell in found) else None,
            color=_COLOURS[turn % len(_COLOURS)],
            label=method,
            capsize=2,
        )
        for bar, (_, cell) in zip(bars, found, strict=True):
            text = f"{cell.score:.0f}{'†' if cell.collapsed else ''}"
            above = bar.get_height() + (cell.std or 0.0)
            middle = bar.get_x() + bar.get_width() / 2
            axes.annotate(text, (middle, above), (0, 2), textcoords="offset points", ha="center", size=8)
    for place, target in enumerate(targets):
        cell = next(cell for cell in results.cells() if cell.target == target)
        for value, style, name in ((cell.majority, "--", "majority class"), (cell.zero_shot, ":", "zero-shot")):
            label = name if place == 0 else None
            axes.hlines(value, place - 0.46, place + 0.46, "black", style, linewidth=1.3, label=label)
    axes.set_xticks(range(len(targets)), targets)
    axes.spines[["top", "right"]].set_visible(False)


def differences(results: Results) -> Figure | None:
    """Every method's difference to PT: its mean over targets with both intervals, and the targets as points."""
    found = comparisons(results.rows)
    if not found:
        return None
    targets = list(dict.fromkeys(target for comparison in found for target in comparison.targets))
    figure = Figure(figsize=(7.2, 0.42 * len(found) + 1.3), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=1)
    for line, comparison in enumerate(found):
        # One above the other: either may be the wider one.
        for place, interval, colour in (
            (line - 0.2, comparison.these_targets, "black"),
            (line + 0.2, comparison.such_targets, "0.65"),
        ):
            if interval and interval.low is not None:
                axes.plot([interval.low, interval.high], [place, place], color=colour, linewidth=2.2)
            if interval:
                axes.plot(interval.mean, place, "D", color=colour, markersize=4.5)
    for turn, target in enumerate(targets):
        places = [(c.targets[target].mean, line) for line, c in enumerate(found) if target in c.targets]
        axes.plot(*zip(*places, strict=True), "o", color=_COLOURS[turn % len(_COLOURS)], markersize=4.5, label=target)
    axes.set(xlabel="points above (+) or below (-) PT", ylim=(len(found) - 0.5, -0.5))
    axes.set_yticks(range(len(found)), [comparison.method for comparison in found])
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def learning_curves(results: Results) -> Figure | None:
    """Training loss of every method on the target's rows, mean over seeds."""
    curves = {
        target: [(method, results.mean_series(method, target, "loss")) for method in results.methods]
        for target in results.targets
    }
    if not any(points for lines in curves.values() for _, points in lines):
        return None
    figure, panels = _panels(list(curves))
    for axes, lines in zip(panels, curves.values(), strict=True):
        for turn, (method, points) in enumerate(lines):
            if points:
                updates, loss = np.array(points, dtype=float).T
                axes.plot(updates, loss, color=_COLOURS[turn % len(_COLOURS)], linewidth=1.4, label=method)
        axes.set(xlabel="target update", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("training loss (nats)")
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=9)
    return figure


def similarity(results: Results) -> Figure | None:
    """Cosines of the task vectors of the sources and each target, mean over seeds."""
    found: list[tuple[str, list[str], np.ndarray]] = []
    for target in results.targets:
        for method in results.methods:
            logged = [history["similarity"] for history in results.histories(method, target) if "similarity" in history]
            if logged:
                matrices = np.array([entry["matrix"] for entry in logged], dtype=float)
                found.append((target, logged[0]["names"], matrices.mean(axis=0)))
                break
    if not found:
        return None
    figure, panels = _panels([target for target, _, _ in found])
    # One scale for all panels; task vectors of few-shot prompts are far from parallel, so it follows the data.
    limit = max([0.05, *(float(np.abs(_off_diagonal(value)).max(initial=0.0)) for _, _, value in found)])
    image = None
    for axes, (_, names, value) in zip(panels, found, strict=True):
        image = axes.imshow(value, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_xticks(range(len(value)), names, rotation=35, ha="right", fontsize=8)
        axes.set_yticks(range(len(value)), names, fontsize=8)
        for row, column in np.ndindex(value.shape):
            shade = "white" if abs(value[row, column]) > 0.6 * limit else "black"
            axes.text(column, row, f"{value[row, column]:.2f}", ha="center", va="center", size=8, color=shade)
    figure.colorbar(image, ax=list(panels), label="cosine", shrink=0.85)
    return figure


def groups(results: Results) -> Figure | None:
    """Which sources DTVG merges with the target, update by update: the share of seeds."""
    found = [
        (target, logs)
        for target in results.targets
        for method in results.methods
        if (logs := [history["groups"] for history in results.histories(method, target) if history.get("groups")])
    ]
    if not found:
        return None
    figure, panels = _panels([target for target, _ in found], height=2.2)
    known = dict.fromkeys(name for row in results.content.get("sources", []) for name in [row["source"]])
    for axes, (_, logs) in zip(panels, found, strict=True):
        names = list(dict.fromkeys([*known, *(name for log in logs for _, group in log for name in group)]))
        updates = [update for update, _ in logs[0]]
        chosen = np.array([[[name in group for _, group in log] for name in names] for log in logs]).mean(axis=0)
        edges = np.array([*updates, updates[-1] + 1]) - 0.5
        axes.pcolormesh(edges, np.arange(len(names) + 1), chosen, cmap="Blues", vmin=0, vmax=1.4)
        share = chosen.mean(axis=1)
        labels = [f"{name} ({100 * part:.0f} %)" for name, part in zip(names, share, strict=True)]
        axes.set_yticks(np.arange(len(names)) + 0.5, labels, fontsize=8)
        axes.set_xlabel("target update")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.invert_yaxis()
        for line in range(1, len(names)):
            axes.axhline(line, color="white", linewidth=2)
    return figure


def particles(results: Results) -> Figure | None:
    """Mean distance between the particles of BMTPT during the source stage."""
    for target in results.targets:
        for method in results.methods:
            points = results.mean_series(method, target, "particles", "mean_distance")
            if points:
                figure, (axes,) = _panels([f"{method}: particles"])
                updates, distance = np.array(points, dtype=float).T
                axes.plot(updates, distance, color=_COLOURS[3], linewidth=1.4)
                axes.set(xlabel="source update", ylabel="mean distance", ylim=(0, None))
                axes.grid(alpha=0.25)
                axes.spines[["top", "right"]].set_visible(False)
                return figure
    return None


def _panels(titles: Sequence[str], height: float = _PANEL[1]) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side, at most three in a row."""
    columns = min(3, len(titles))
    lines = -(-len(titles) // columns)
    figure = Figure(figsize=(_PANEL[0] * columns + 1.0, height * lines + 0.3), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title, fontsize=10)
    for axes in panels[len(titles) :]:
        axes.remove()
    return figure, panels[: len(titles)]


def _off_diagonal(matrix: np.ndarray) -> np.ndarray:
    return matrix[~np.eye(len(matrix), dtype=bool)]
