"""The explanation of a run as tables that fit 80 columns."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from prompttransfer.estimate.cost import SHARE
from prompttransfer.estimate.explanation import Explanation, gigabytes

_UNKNOWN = "?"


def print_explanation(explanation: Explanation, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console(highlight=False)
    about = f": {explanation.about.about}" if explanation.about.about else ""
    console.print(f"[bold]{escape(explanation.name)}[/bold]{escape(about)}")
    _model(explanation, console)
    console.print(_tasks(explanation))
    console.print(_stages(explanation))
    _costs(explanation, console)
    _choices(explanation, console)
    _missing(explanation, console)


def duration(seconds: float | None) -> str:
    """A time for people, in the unit that suits it."""
    if seconds is None:
        return _UNKNOWN
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if seconds >= 1 else "<1 s"
    return f"{seconds / 86400:,.0f} days"


def _model(explanation: Explanation, console: Console) -> None:
    model = explanation.model
    if model is None:
        line = f"model {explanation.config.model}: not known here, so nothing that depends on its size"
        console.print(line, markup=False)
        return
    kind = "encoder-decoder" if model.seq2seq else "causal"
    console.print(
        f"model {model.name}: {model.family}, {kind}, {model.parameters:,} parameters, hidden size {model.hidden}, "
        f"{model.layers} layers that read the text",
        markup=False,
    )


def _tasks(explanation: Explanation) -> Table:
    table = _table("task", ("train", "right"), ("test", "right"), "metric", ("majority", "right"), "here")
    for task in explanation.tasks:
        about = "" if task.exact else "~"
        table.add_row(
            escape(f"{task.name} ({task.role})"),
            about + _count(task.train) if task.train is not None else _UNKNOWN,
            about + _count(task.test) if task.test is not None else _UNKNOWN,
            task.metric,
            "" if task.majority is None else f"{task.majority:.1f}",
            "yes" if task.here else "no",
        )
    return table


def _stages(explanation: Explanation) -> Table:
    right = ("rows", "updates", "batch", "trained", "runs", "time")
    table = _table("stage", *((title, "right") for title in right))
    for stage, seconds in zip(explanation.stages, explanation.seconds, strict=True):
        trained = _UNKNOWN if stage.trained is None else _count(stage.trained or None)
        updates = _UNKNOWN if stage.updates is None else _count(stage.updates or None)
        rows = _UNKNOWN if stage.rows is None else _count(stage.rows)
        each = duration(seconds) if stage.times == 1 or seconds is None else duration(seconds * stage.times)
        table.add_row(escape(stage.title), rows, updates, _count(stage.batch), trained, str(stage.times), each)
    return table


def _costs(explanation: Explanation, console: Console) -> None:
    machine, memory = explanation.machine, explanation.memory
    if memory is None or explanation.disk is None:
        return
    kind = "bfloat16" if machine.short else "float32"
    free = "" if machine.memory is None else f", {gigabytes(machine.memory)} are free"
    least = "" if explanation.complete else "at least "
    console.print(
        f"memory, about: {gigabytes(memory.total)} = weights {gigabytes(memory.weights)} + activations "
        f"{gigabytes(memory.activations)} + prompts {gigabytes(memory.prompts)}{free}",
        f"time, an estimate: {least}{duration(explanation.total_seconds)} = 2 operations x parameters x tokens, "
        f"forward and backward, at {SHARE:.0%} of the {machine.rate / 1e9:,.0f} GFLOP/s of {kind} products "
        f"measured now ({machine.device})",
        f"disk, at most: {gigabytes(explanation.disk)}, {gigabytes(explanation.free_disk)} are free",
        sep="\n",
        markup=False,
    )


def _choices(explanation: Explanation, console: Console) -> None:
    about = explanation.about
    chosen: dict[str, list[str]] = {}
    for path, why in about.unknown.items():
        chosen.setdefault(why, []).append(path)
    for title, lines in (
        ("chosen here, as nothing that we have read states it", [f"{', '.join(chosen[why])}: {why}" for why in chosen]),
        ("other than in the paper", list(about.departures)),
    ):
        if lines:
            console.print(f"\n{title}:")
            for line in lines:
                console.print(f"  {line}", markup=False)


def _missing(explanation: Explanation, console: Console) -> None:
    if explanation.ready:
        console.print("\nnothing is missing: this can run here")
        return
    console.print("\n[bold]missing here[/bold], and what gets it:")
    for what, command in explanation.missing:
        console.print(f"  {what}", markup=False)
        console.print(f"    {command}", markup=False, soft_wrap=True)  # to be copied in one piece


def _table(first: str, *others: str | tuple[str, str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for column in others:
        title, justify = (column, "left") if isinstance(column, str) else column
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    return table


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
