"""The measured part of docs/scaling.md, with its picture: every number comes from the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tools.scaling.fitting import errors, fit, predict
from tools.scaling.predictions import Cluster, Work, library_of, run_of_tasks

BEGIN, END = "<!-- scaling: generated, do not edit -->", "<!-- end of scaling -->"
USES = ("fitted", "held out", "beyond")
_UNITS = {"operations": (1e-9, "GFLOP/s"), "layers": (1e6, "µs"), "calls": (1e6, "µs")}


def write(results: dict[str, Any], library: dict[str, Any], path: Path) -> None:
    """Replace the marked region of the page, and draw its picture into figures/ next to it.

    Raises:
        ValueError: the page has no such region.
    """
    text = path.read_text(encoding="utf-8")
    before, begins, rest = text.partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not (begins and ends):
        raise ValueError(f"{path}: want a region between {BEGIN!r} and {END!r}")
    fits = {kind: _fitted(results["points"], kind) for kind in ("time", "memory")}
    picture = path.parent / "figures" / "scaling.svg"
    draw(results["points"], fits, picture)
    body = "\n\n".join(_blocks(results, library, fits, picture.relative_to(path.parent).as_posix()))
    path.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")


def _value(point: dict[str, Any], kind: str) -> float:
    return float(point["seconds" if kind == "time" else "peak_bytes"])


def _fitted(points: Sequence[dict[str, Any]], kind: str) -> dict[str, Any]:
    def of(use: str) -> tuple[list[dict[str, float]], list[float]]:
        chosen = [point for point in points if point["use"] == use]
        return [point[f"{kind}_terms"] for point in chosen], [_value(point, kind) for point in chosen]

    constants = fit(*of("fitted"))
    return {"constants": constants, "errors": {use: errors(constants, *of(use)) for use in USES if of(use)[0]}}


def _blocks(results: dict[str, Any], library: dict[str, Any], fits: dict[str, Any], picture: str) -> Iterable[str]:
    machine = results["machine"]
    yield (
        f"Measured on {machine['device']}, {machine['threads']} of {machine['cores']} threads, torch "
        f"{machine['torch']}, {machine['date']}, commit {machine['commit']}; load average at the start "
        f"{machine['load_average']}."
    )
    yield "### Time and memory of an update"
    yield f"![Measured against the cost model]({picture})"
    yield _errors(fits)
    yield "Constants of this machine, and the share of each term at the centre of the sweep:"
    yield _constants(results["points"], fits["time"]["constants"])
    yield _methods(results["points"])
    yield (
        "Memory is fitted to the terms of the estimate of `prompttransfer validate`, which is for whole processes: "
        f"{_factors(fits['memory']['constants'])}."
    )
    yield "### Operations"
    yield _operations(results["operations"])
    yield "### The cost of many tasks"
    yield _tasks(results["tasks"])
    yield "### A search in a library"
    yield _library(library)
    yield "### Predicted: 1,000 tasks, 70 billion parameters, 64 GPUs"
    yield _run(Cluster(), Work())
    yield "### Predicted: a library of 1,000,000 prompts"
    yield _libraries(library)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _errors(fits: dict[str, Any]) -> str:
    names = {"fitted": "fitted", "held out": "held out, within the ranges", "beyond": "held out, beyond all ranges"}
    rows = [
        (kind, names[use], error["points"], f"{100 * error['median']:.0f} %", f"{100 * error['largest']:.0f} %")
        for kind, one in fits.items()
        for use, error in one["errors"].items()
    ]
    return _table(("of", "points", "number", "median error", "largest error"), rows)


def _constants(points: Sequence[dict[str, Any]], constants: dict[str, float]) -> str:
    centre = points[0]["time_terms"]
    total = predict(constants, centre)
    rows = []
    for name, constant in constants.items():
        factor, unit = _UNITS.get(name, (1e-9, "GB/s"))
        if constant == 0:
            size = "not seen"
        else:
            size = f"{factor * constant if unit == 'µs' else factor / constant:.3g} {unit}"
        rows.append((name, size, f"{100 * constant * centre[name] / total:.0f} %"))
    return _table(("term", "constant", f"share, {points[0]['method']}"), rows)


def _factors(constants: dict[str, float]) -> str:
    return ", ".join(f"{value:.2f} times {name}" for name, value in constants.items() if value)


def _methods(points: Sequence[dict[str, Any]]) -> str:
    centres = {point["method"]: point for point in reversed(points) if point["use"] == "fitted"}
    base = centres["PT"]["seconds"]
    rows = [
        (
            name,
            f"{1e3 * point['seconds']:.0f} ms",
            f"{point['seconds'] / base:.2f}",
            f"{point['peak_bytes'] / 1e6:.0f} MB",
        )
        for name, point in reversed(centres.items())
    ]
    return _table(("centre of the sweep", "time", "over PT", "peak memory"), rows)


def _operations(operations: Sequence[dict[str, Any]]) -> str:
    sizes = [size for size in operations[0]["sizes"]]
    rows = [
        (row["operation"], *(_time(value) for value in row["seconds"]), f"{row['exponent']:.1f}") for row in operations
    ]
    return _table(("L = 20, H = 768", *map(str, sizes), "grows with the power"), rows)


def _tasks(tasks: Sequence[dict[str, Any]]) -> str:
    head = (
        "source tasks", "load, without leaks", "memory loaded", "whole run", "one more target", "files", "bytes",
    )  # fmt: skip
    rows = [
        (
            row["sources"],
            f"{row['seconds_to_load']:.1f} s",
            f"{row['loaded_mib']:.0f} MiB",
            f"{row['seconds_of_run']:.1f} s",
            f"{row['seconds_with_sources_done']:.1f} s",
            row["files_stages"] + row["files_run-2"],
            f"{(row['bytes_stages'] + row['bytes_run-2']) / 1e6:.1f} MB",
        )
        for row in tasks
    ]
    return _table(head, rows)


def _library(library: dict[str, Any]) -> str:
    rows = [
        (state, *(f"{library[state][f'{name}_gb_per_second']:.2f}" for name in ("similar", "mapped", "read")),
         f"**{library[state]['ratio']:.2f}** over {'mapped' if state == 'warm' else 'read'}")
        for state in ("warm", "cold")
    ]  # fmt: skip
    size = f"{library['prompts']} prompts of {library['length']} x {library['hidden']}, {library['bytes'] / 1e9:.1f} GB"
    summary = (
        f"{size}: indexed in {library['seconds_to_index']:.1f} s, opened again in {library['seconds_to_open']:.2f} s; "
        f"a search takes {library['search_memory_mib']:.0f} MiB of memory."
    )
    return summary + "\n\n" + _table(("GB/s", "similar", "mapped and summed", "read", "ratio"), rows)


def _run(cluster: Cluster, work: Work) -> str:
    totals = run_of_tasks(cluster, work)
    minimum = totals["weights_gb"] / (cluster.memory / 1e9)
    days = {
        f"prompts of {work.tasks} sources (SPoT, DTVG, MPT's teachers), {work.updates} updates each": "sources",
        f"one method on {work.tasks} targets, {work.updates} updates each": "targets",
        f"MPT's joint stage, {work.joint} updates of mixed rows": "mpt_joint",
        "its teachers' forward passes": "mpt_teachers",
        f"BMTPT's joint stage, {work.particles} particles, {work.joint} updates": "bmtpt_joint",
        f"scoring of {work.tasks} prompts on {work.test_rows} rows": "scoring",
    }
    sizes = {
        "weights in bfloat16": f"{totals['weights_gb']:.0f} GB: {minimum:.2f} GPUs' memory before anything else",
        f"activations of an update of {work.rows} rows": f"{totals['activations_gb']:.0f} GB, "
        f"{totals['activations_checkpointed_gb']:.1f} GB with checkpointing",
        "a prompt file": f"{totals['prompt_mb']:.1f} MB",
        "MPT: factors of all sources": f"{totals['mpt_factors_mb']:.0f} MB, "
        f"{totals['mpt_training_mb']:.0f} MB in training",
        "DTVG: stacked source vectors on every GPU": f"{totals['dtvg_vectors_gb']:.1f} GB; reading them is "
        f"{totals['dtvg_share_percent']:.1f} % of an update",
        "Gram matrix of all task vectors": f"{totals['gram_mb']:.0f} MB, {1e3 * totals['gram_seconds']:.1f} ms",
        f"BMTPT: {work.particles} particles in training": f"{totals['bmtpt_state_mb']:.0f} MB",
        "store: prompts of sources and of one method": f"{totals['store_gb']:.1f} GB",
        "run folder, for each method": f"{totals['prompts_gb']:.1f} GB",
    }
    assumed = (
        f"Assumed: {cluster.gpus} GPUs with {cluster.operations_per_second / 1e12:.0f} TFLOP/s (bfloat16), "
        f"{cluster.bytes_per_second / 1e12:.1f} TB/s and {cluster.memory / 1e9:.0f} GB each, which "
        f"reach {100 * cluster.utilisation:.0f} % of the operations and {100 * cluster.streaming:.0f} % of the memory "
        f"bandwidth; {work.length} prompt tokens, {work.text} text tokens, {work.rows} rows per update. One update "
        f"takes {totals['update_seconds']:.1f} GPU seconds."
    )
    rows = [(what, f"{totals[f'days_{name}']:.2f} days") for what, name in days.items()]
    return f"{assumed}\n\n{_table(('on all GPUs', ''), rows)}\n\n{_table(('', ''), sizes.items())}"


def _libraries(library: dict[str, Any]) -> str:
    rows = []
    for hidden in (768, 4096, 8192):
        costs = library_of(1_000_000, hidden, 100, library)
        rows.append(
            (
                f"100 x {hidden}",
                f"{costs['gb']:.0f} GB",
                f"{costs['index_minutes']:.0f} min",
                f"{costs['open_seconds']:.0f} s",
                f"{costs['warm_minutes']:.1f} min",
                f"{costs['cold_minutes']:.1f} min",
            )
        )
    head = ("prompts", "files", "first index", "opened again", "search, in memory", "search, from this disk")
    return _table(head, rows)


def _time(seconds: float) -> str:
    if seconds < 1e-3:
        return f"{1e6 * seconds:.0f} µs"
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.1f} s"


def draw(points: Sequence[dict[str, Any]], fits: dict[str, Any], path: Path) -> None:
    """Plot measured against predicted time and memory, with a colour per method. Held-out points are filled."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "scaling"  # the same picture from the same numbers
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    methods = list(dict.fromkeys(point["method"] for point in points))
    labels = {"time": "seconds", "memory": "bytes"}
    for axes, (kind, one) in zip(figure.subplots(1, 2), fits.items(), strict=True):
        for place, method in enumerate(methods):
            for held in (False, True):
                chosen = [p for p in points if p["method"] == method and (p["use"] != "fitted") == held]
                x = [predict(one["constants"], point[f"{kind}_terms"]) for point in chosen]
                y = [_value(point, kind) for point in chosen]
                colour = f"C{place}"
                axes.scatter(
                    x, y, s=22, edgecolors=colour, facecolors=colour if held else "none", label=None if held else method
                )
        axes.axline((1, 1), slope=1, color="grey", linewidth=0.8)
        axes.set(xscale="log", yscale="log", title=f"{kind.capitalize()} of a call")
        axes.set(xlabel=f"predicted, {labels[kind]}", ylabel=f"measured, {labels[kind]}")
        values = [_value(point, kind) for point in points]
        low, high = min(values) / 2, max(values) * 2
        axes.set(xlim=(low, high), ylim=(low, high))
    figure.axes[0].legend(fontsize="small", title="filled: held out")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
