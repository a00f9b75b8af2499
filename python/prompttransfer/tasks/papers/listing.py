"""What is known about the data sets of the papers, in words and as a table for the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from prompttransfer.tasks.papers.spec import PaperTask, Splits
from prompttransfer.tasks.papers.table import PAPER_TASKS

_SHOWN_CHOICES = 5


def describe(name: str) -> str:
    """Lines about a set: where it is, its text, answers, splits, scores, and the papers that use it.

    Raises:
        KeyError: there is no such set.
    """
    spec = PAPER_TASKS[name]
    lines = [
        f"{name}: {spec.content}",
        f"  hub: {spec.hub}{f', config {spec.config}' if spec.config else ''}",
        f"  text: {spec.template}",
        f"  answers: {_answers(spec)}",
        f"  splits: {_splits(spec.splits)}{_cap(spec)}",
        f"  metric: {', '.join((spec.metric, *spec.more_metrics))}; {spec.max_length} tokens",
        f"  used by: {_roles(spec)}",
    ]
    return "\n".join(lines)


def markdown_table() -> str:
    """All sets, for docs/tasks.md."""
    head = ("name", "hub", "text", "answers in words", "splits", "metric", "tokens", "used by")
    rows = [head, ["---"] * len(head)]
    for spec in PAPER_TASKS.values():
        hub = f"`{spec.hub}`{f', `{spec.config}`' if spec.config else ''}"
        splits = f"{_splits(spec.splits)}{_cap(spec)}"
        metrics = ", ".join((spec.metric, *spec.more_metrics))
        cells = (f"`{spec.name}`", hub, f"`{spec.template}`", _words(spec), splits, metrics, str(spec.max_length))
        rows.append([*cells, _roles(spec)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _answers(spec: PaperTask) -> str:
    if not spec.words:
        return "free text"
    return _words(spec) if spec.scale else f"{_list(spec.choices('digits'))}; in words {_words(spec)}"


def _words(spec: PaperTask) -> str:
    return _list(spec.words) if spec.words else "free text"


def _list(words: Sequence[str]) -> str:
    if len(words) <= _SHOWN_CHOICES:
        return ", ".join(words)
    return f"{words[0]}, {words[1]}, …, {words[-1]}"


def _splits(splits: Splits) -> str:
    test = "+".join(splits.test)
    if splits.rule == "own":
        return f"own: {'+'.join(splits.validation)}, {test}"
    return f"{splits.rule}: {test}"


def _cap(spec: PaperTask) -> str:
    return f", at most {spec.max_train:,} training rows" if spec.max_train else ""


def _roles(spec: PaperTask) -> str:
    roles = [f"{paper} (source)" for paper in spec.source_of] + [f"{paper} (target)" for paper in spec.target_of]
    return ", ".join(roles)
