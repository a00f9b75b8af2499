"""The pictures of a run: small multiples, one panel per target. A picture without data has no panels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from prompttransfer.report.results import Results
from prompttransfer.report.statistics import Comparison, interval_text
from prompttransfer.report.svg import Chart, Key, Panel, Picture, line_class, shortened, text_width
from prompttransfer.report.tables import metric_name, score_text
from prompttransfer.report.theme import SERIES
from prompttransfer.report.traces import Series, Trace, read_traces
from prompttransfer.tasks.scales import PERCENT

Traces = Mapping[tuple[str, str], Trace]

_WIDTH, _HEIGHT = 350.0, 220.0
_NUMBERS = 14  # largest number of columns of a heat map with numbers in its cells
_SCORE_KEYS = (Key("ink dash", "majority class"), Key("ink dots", "zero-shot"))


def pictures(results: Results) -> list[Picture]:
    """All pictures for which the results have data."""
    traces = read_traces(results)
    drawn = [
        Picture(
            "scores",
            "Scores by target",
            "Black lines on the bars: the standard deviation over seeds. Pale bars: collapsed. ↓: lower is better.",
            tuple(scores(results)),
            _SCORE_KEYS,
        ),
        difference_picture(results.differences, "PT"),
        Picture(
            "learning",
            "Learning curves",
            "Training loss (nats) on the target's rows, mean over seeds; long runs averaged over neighbouring updates. "
            "SPoT and DTVG spend their first updates on the target's own prompt and the rest on the transfer.",
            tuple(learning_curves(results, traces)),
            method_keys(results),
        ),
        Picture(
            "similarity",
            "Task similarity",
            "Cosine of the task vectors P - P_init, mean over seeds. Blue: above 0; red: below.",
            tuple(similarity(results, traces)),
        ),
        Picture(
            "groups",
            "DTVG's groups",
            "Blue: the share of seeds that merge the source at this update; per cent: of all updates.",
            tuple(groups(results, traces)),
        ),
        Picture(
            "particles",
            "BMTPT's particles",
            "Mean distance between particles and bandwidth of the SVGD kernel in the source stage; mean over seeds.",
            tuple(particles(results, traces)),
        ),
        Picture(
            "attention",
            "Attention over prompts",
            "Weight of every prompt, or its mean over training rows; own: the prompt of the target itself.",
            tuple(attention(results, traces)),
        ),
    ]
    return [picture for picture in drawn if picture.panels]


def scores(results: Results) -> list[Panel]:
    """Bars of every method, one panel per target, with lines for the majority class and the zero-shot model."""
    return [_score_panel(results, target) for target in results.targets]


def _score_panel(results: Results, target: str) -> Panel:
    cells = [(turn, cell) for turn, method in enumerate(results.methods) if (cell := results.cell(method, target))]
    scale = cells[0][1].scale
    majority, zero_shot = (results.baseline(target, name) for name in ("majority", "zero_shot"))
    reach = [cell.score + way * (cell.std or 0) for _, cell in cells for way in (-1, 1)] + [majority, zero_shot]
    # A truncated axis would exaggerate differences. Correlations may be negative.
    low, high = min(0.0, *reach), max(100.0 if scale == PERCENT else 0.0, *reach)
    left = min(120.0, max(text_width(method) for method in results.methods) + 10)
    title, height = f"{target} ({metric_name(results.metrics[target])})", 50 + 19 * len(cells)
    rows = (len(cells) - 0.5, -0.5)
    chart = Chart(title, _WIDTH, height, (low, high), rows, left=left, right=92, bottom=20)
    chart.x_axis()
    for place, (turn, cell) in enumerate(cells):
        method, y = cell.first.method, chart.y(place)
        tip = (
            f"{method} on {target}: {score_text(cell)}, {len(cell.rows)} seed(s), {cell.first.test_rows} rows; "
            f"majority {scale.text(majority)}, zero-shot {scale.text(zero_shot)}"
        )
        chart.text(left - 6, y + 4, shortened(method, left - 6), anchor="end", tip=method)
        chart.bar(0, cell.score, place, 12, f"f{turn % SERIES}", tip, 0.35 if cell.collapsed else 1)
        if cell.std:
            chart.segment(chart.x(cell.score - cell.std), y, chart.x(cell.score + cell.std), y, "ink")
        chart.text(_WIDTH - 88, y + 4, score_text(cell), tip=tip)
    for value, classes in ((majority, "ink dash"), (zero_shot, "ink dots")):
        chart.segment(chart.x(value), chart.y(-0.5), chart.x(value), chart.y(len(cells) - 0.5), classes)
    return chart.panel()


def difference_picture(comparisons: Sequence[Comparison], against: str) -> Picture:
    """Mean differences to a method or a run."""
    return Picture(
        "differences",
        f"Difference to {against}",
        "Mean differences with their 95 % confidence intervals: over seeds, for another draw of training rows on the "
        "same targets; over targets and seeds, for other targets of this kind. Lines that reach the frame are cut "
        "there.",
        tuple(_differences(comparisons, against)),
        (
            Key("ink", "mean over the targets, 95 % CI over seeds"),
            Key("ghost", "mean over the targets, 95 % CI over targets and seeds"),
            Key("f0", "single targets"),
        ),
    )


def _differences(comparisons: Sequence[Comparison], against: str) -> list[Panel]:
    """Mean differences with both intervals, and the targets' differences as dots. Empty if there are no means."""
    comparisons = [comparison for comparison in comparisons if comparison.over_targets]
    if not comparisons:
        return []
    dots = [comparison.targets[name].mean for comparison in comparisons for name in comparison.averaged]
    # Intervals over two seeds are far wider than the differences, so those that leave the frame are cut.
    reach = (max(abs(value) for value in dots) or 1.0) * 1.5
    left = min(150.0, max(text_width(comparison.method) for comparison in comparisons) + 10)
    chart = Chart(
        f"Difference to {against}",
        460,
        66 + 34 * len(comparisons),
        (-reach, reach),
        (len(comparisons) - 0.5, -0.5),
        left=left,
    )
    chart.x_axis(f"points above (+) or below (-) {against}")
    chart.segment(chart.x(0), chart.y(-0.5), chart.x(0), chart.y(len(comparisons) - 0.5), "axis")
    for place, comparison in enumerate(comparisons):
        chart.text(left - 6, chart.y(place) + 4, shortened(comparison.method, left - 6), anchor="end")
        for shift, interval, classes, name in (
            (-0.24, comparison.over_seeds, "ink", "mean, 95 % CI over seeds"),
            (0.24, comparison.over_targets, "ghost", "mean, 95 % CI over targets and seeds"),
        ):
            if interval is None:
                continue
            y = place + shift
            if interval.low is not None and interval.high is not None:
                start, end = (chart.x(min(reach, max(-reach, value))) for value in (interval.low, interval.high))
                chart.segment(start, chart.y(y), end, chart.y(y), classes)
            tip = f"{comparison.method}, {name}: {interval_text(interval, comparison.scale.digits)}"
            chart.dot(interval.mean, y, f"{classes}fill", tip, radius=3.6)
        for target in comparison.averaged:
            tip = f"{comparison.method} on {target}: {comparison.text(target)}"
            chart.dot(comparison.targets[target].mean, place, "f0", tip, radius=3, opacity=0.75)
    return [chart.panel()]


def learning_curves(results: Results, traces: Traces) -> list[Panel]:
    """Training loss of every method on the target's rows, one panel per target."""
    panels = []
    for target in results.targets:
        lines = {method: traces[method, target].loss for method in results.methods}
        panels += _curves(results, target, lines, "target update")
    return panels


def particles(results: Results, traces: Traces) -> list[Panel]:
    """Distance between BMTPT's particles and bandwidth of their kernel, by update of the source stage."""
    panels = []
    for method in results.methods:
        # The source stage is the same for all targets, so one of them is enough.
        series = next(
            (trace.particles for target in results.targets if (trace := traces[method, target]).particles), {}
        )
        for name, label in (("mean_distance", "mean distance"), ("bandwidth", "bandwidth of the kernel")):
            panels += _curves(results, f"{method}: {label}", {method: series.get(name, [])}, "source update")
    return panels


def _curves(results: Results, title: str, lines: Mapping[str, Series], label: str) -> list[Panel]:
    """A panel with a line for every method that has points; no panel if none has."""
    lines = {method: points for method, points in lines.items() if points}
    if not lines:
        return []
    values = [value for points in lines.values() for _, value in points]
    last = max(points[-1][0] for points in lines.values())
    chart = Chart(title, _WIDTH, _HEIGHT, (0, last), (min(0.0, *values), 1.04 * max(values)))
    chart.x_axis(label, integer=True)
    chart.y_axis()
    for method, points in lines.items():
        tip = f"{method}: {points[0][1]:.3g} at first, {points[-1][1]:.3g} last"
        chart.line(points, line_class(results.methods.index(method)), tip)
    return [chart.panel()]


def method_keys(results: Results) -> tuple[Key, ...]:
    """A legend of the methods."""
    return tuple(Key(line_class(turn), method) for turn, method in enumerate(results.methods))


def similarity(results: Results, traces: Traces) -> list[Panel]:
    """Cosines of task vectors: between sources, and between every target and every source."""
    known = list(dict.fromkeys(row.source for row in results.sources))
    among: dict[tuple[str, str], float] = {}
    with_target: dict[tuple[str, str], float] = {}
    for target in results.targets:
        for method in results.methods:
            logged = traces[method, target].similarity
            if logged is None:
                continue
            names, matrix = logged
            # Some methods log the target's own prompt, last. A source may have the target's name.
            own = len(names) - 1 if names[-1] == target and len(names) > len(known) else len(names)
            for one, a in enumerate(names):
                kind, row = (with_target, target) if one == own else (among, a)
                for other, b in enumerate(names[:own]):
                    # From the first method that has it, because all methods use the same prompts.
                    kind.setdefault((row, b), float(matrix[one, other]))
    if not among:
        return []
    apart = [value for (a, b), value in among.items() if a != b]
    limit = max([0.05, *map(abs, apart), *map(abs, with_target.values())])
    maps = (("Sources among themselves", among), ("Targets with sources", with_target))
    return [_heat_map(title, values, limit, "cosine") for title, values in maps if values]


def attention(results: Results, traces: Traces) -> list[Panel]:
    """Weight of every prompt in a target's prompt, for methods that learn it; the mean if it depends on the row."""
    panels = []
    for method in results.methods:
        values = {
            (target, "own" if name == target else name): value
            for target in results.targets
            for name, value in traces[method, target].attention.items()
        }
        if values:
            panels.append(_heat_map(f"{method}: attention", values, 1.0, "weight"))
    return panels


def _heat_map(title: str, values: Mapping[tuple[str, str], float], limit: float, unit: str) -> Panel:
    """Cells by row and column, coloured by value / limit: blue above 0, red below."""
    rows, columns = (list(dict.fromkeys(names[side] for names in values)) for side in (0, 1))
    numbers = len(columns) <= _NUMBERS
    wide, high = (40.0, 24.0) if numbers else (20.0, 20.0)
    left = min(130.0, max(map(text_width, rows)) + 10)
    top = 38 + min(100.0, max(map(text_width, columns))) * 0.72
    # The last slanted name extends to the right.
    width = max(1.2 * text_width(title) + 6, left + wide * len(columns) + min(100.0, text_width(columns[-1])) * 0.72)
    chart = Chart(title, width, top + high * len(rows) + 8, (0, 1), (0, 1))
    for place, name in enumerate(columns):
        chart.text(left + wide * (place + 0.5), top - 6, shortened(name, 100), turn=-45, tip=name)
    for line, name in enumerate(rows):
        y = top + high * line
        chart.text(left - 6, y + high / 2 + 4, shortened(name, left - 6), anchor="end", tip=name)
        for place, other in enumerate(columns):
            value = values.get((name, other))
            if value is None:
                continue
            shade = min(1.0, abs(value) / limit) * 0.75
            x, tip = left + wide * place, f"{name}, {other}: {unit} {value:.3f}"
            chart.box(x, y, wide - 1, high - 1, "up" if value >= 0 else "down", tip, shade)
            if numbers:
                chart.text(x + wide / 2, y + high / 2 + 4, f"{value:.2f}", anchor="middle")
    return chart.panel()


def groups(results: Results, traces: Traces) -> list[Panel]:
    """Sources that DTVG merges with the target at each update, as a fraction of the seeds."""
    known = list(dict.fromkeys(row.source for row in results.sources))
    panels = []
    for target in results.targets:
        for method in results.methods:
            log = traces[method, target].groups
            if log:
                names = list(dict.fromkeys([*known, *log.shares]))
                panels.append(_timeline(f"{method}: {target}", names, log.edges, log.shares))
    return panels


def _timeline(title: str, names: Sequence[str], edges: Sequence[float], shares: Mapping[str, Sequence[float]]) -> Panel:
    spans = np.diff(edges)
    whole = {name: float(np.average(shares[name], weights=spans)) if name in shares else 0.0 for name in names}
    labels = {name: f"{shortened(name, 100)} {100 * whole[name]:.0f} %" for name in names}
    left = min(150.0, max(map(text_width, labels.values())) + 8)
    rows = (len(names) - 0.5, -0.5)
    chart = Chart(title, _WIDTH, 66 + 19 * len(names), (edges[0], edges[-1]), rows, left=left, right=14)
    chart.x_axis("target update", integer=True)
    for line, name in enumerate(names):
        chart.text(left - 6, chart.y(line) + 4, labels[name], anchor="end", tip=name)
        columns = zip(edges, edges[1:], shares.get(name, ()), strict=False)
        for share, same in groupby(columns, key=lambda column: round(column[2], 9)):
            start, *_, end = (edge for column in same for edge in column[:2])
            if share > 0:
                tip = f"{name}: updates {start:g} to {end - 1:g}, {100 * share:.0f} % of the seeds"
                chart.bar(start, end, line, 13, "up", tip, max(0.1, share * 0.85))
    return chart.panel()
