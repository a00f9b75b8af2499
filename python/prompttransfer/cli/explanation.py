"""Print the explanation of a run as tables that fit 80 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from prompttransfer.cli.tables import print_table
from prompttransfer.estimate.cost import SHARE
from prompttransfer.estimate.explanation import Explanation
from prompttransfer.files.cache_parts import size


def print_explanation(explanation: Explanation, console: Console | None = None) -> None:
    """Print what a run would do and need, then what is missing."""
    console = console or Console(highlight=False)
    recipe = explanation.recipe
    console.print(Text.assemble((recipe.name, "bold"), f": {recipe.about.about}" if recipe.about.about else ""))
    console.print(_model(explanation), markup=False)
    print_table(
        [
            {
                "task": f"{task.name} ({task.role})",
                "train": _count(task.train, exact=task.exact),
                "test": _count(task.test, exact=task.exact),
                "metric": task.metric,
                "majority": task.majority,
                "here": "yes" if task.here else "no",
            }
            for task in explanation.tasks
        ],
        right=("train", "test", "majority"),
        console=console,
    )
    print_table(
        [
            {
                "stage": stage.title,
                "rows": _count(stage.rows),
                "updates": _count(stage.updates),
                "batch": _count(stage.batch),
                "trained": _count(stage.trained),
                "runs": stage.times,
                "time": _duration(None if seconds is None else seconds * stage.times),
            }
            for stage, seconds in zip(explanation.stages, explanation.seconds, strict=True)
        ],
        right=("rows", "updates", "batch", "trained", "runs", "time"),
        console=console,
    )
    for line in (*_costs(explanation), *_choices(explanation)):
        console.print(line, markup=False)
    if explanation.ready:
        console.print("\nnothing is missing: this can run here")
        return
    console.print("\n[bold]missing here[/bold], and how to get it:")
    for what, command in explanation.missing:
        console.print(f"  {what}", markup=False)
        console.print(f"    {command}", markup=False, soft_wrap=True)  # unbroken, to copy


def _model(explanation: Explanation) -> str:
    model = explanation.model
    if model is None:
        return f"model {explanation.config.model}: its size is unknown here, and so is everything that depends on it"
    kind = "encoder-decoder" if model.seq2seq else "causal"
    return (
        f"model {model.name}: {model.family}, {kind}, {model.parameters:,} parameters, hidden size {model.hidden}, "
        f"{model.layers} layers that read the text"
    )


def _costs(explanation: Explanation) -> Iterator[str]:
    machine, memory = explanation.machine, explanation.memory
    if memory is None or explanation.disk is None:
        return
    kind = "bfloat16" if machine.short else "float32"
    least = "" if explanation.complete else "at least "
    yield (
        f"memory, roughly: {size(memory.total)} = weights {size(memory.weights)} + activations "
        f"{size(memory.activations)} + prompts {size(memory.prompts)}, {size(machine.memory)} free"
    )
    yield (
        f"time, an estimate: {least}{_duration(explanation.total_seconds)} = 2 operations x parameters x tokens, "
        f"forward and backward, at {SHARE:.0%} of the {machine.rate / 1e9:,.0f} GFLOP/s of {kind} products "
        f"measured now ({machine.device})"
    )
    yield f"disk, at most: {size(explanation.disk)}, {size(explanation.free_disk)} free"


def _choices(explanation: Explanation) -> Iterator[str]:
    """The settings that no paper states, grouped by reason, and departures from the paper."""
    chosen: dict[str, list[str]] = {}
    for path, why in explanation.recipe.about.unknown.items():
        chosen.setdefault(why, []).append(path)
    if chosen:
        yield "\nour choice, because no source we know states it:"
        yield from (f"  {', '.join(paths)}: {why}" for why, paths in chosen.items())
    if explanation.recipe.about.departures:
        yield "\ndifferent from the paper:"
        yield from (f"  {departure}" for departure in explanation.recipe.about.departures)


def _duration(seconds: float | None) -> str:
    """Format a duration in a suitable unit."""
    if seconds is None:
        return "?"
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f} {unit}" if seconds >= 1 else "<1 s"
    return f"{seconds / 86400:,.0f} days"


def _count(number: int | None, exact: bool = True) -> str:
    """Format a number: "?" if unknown, empty for 0."""
    if number is None:
        return "?"
    return f"{'' if exact else '~'}{number:,}" if number else ""
