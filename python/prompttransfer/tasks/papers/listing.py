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


def markdown_tables() -> str:
    """All sets, for docs/tasks.md: what they ask, and where they are from."""
    asked = [["name", "text", "answers in words", "metric", "tokens"]]
    origin = [["name", "hub", "splits", "used by"]]
    for spec in PAPER_TASKS.values():
        name, metrics = f"`{spec.name}`", ", ".join((spec.metric, *spec.more_metrics))
        asked.append([name, f"`{spec.template}`", _words(spec), metrics, str(spec.max_length)])
        hub = f"`{spec.hub}`{f', `{spec.config}`' if spec.config else ''}"
        origin.append([name, hub, f"{_splits(spec.splits)}{_cap(spec)}", _roles(spec)])
    return "\n\n".join(map(_markdown, (asked, origin)))


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *others))


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
    roles = (("source", spec.source_of), ("target", spec.target_of))
    return "; ".join(f"{role} of {' and '.join(papers)}" for role, papers in roles if papers)
