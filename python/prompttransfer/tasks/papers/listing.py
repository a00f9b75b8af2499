"""What is known about the data sets of the papers, in words."""

from __future__ import annotations

from collections.abc import Sequence

from prompttransfer.tasks.papers.table import PAPER_TASKS

_SHOWN_CHOICES = 5


def describe(name: str) -> str:
    """Lines about a set: where it is, its text, answers, splits, scores, and the papers that use it."""
    spec = PAPER_TASKS[name]
    digits = "" if spec.scale else f"{_listed(spec.choices('digits'))}; in words "
    splits = (spec.splits.validation, spec.splits.test) if spec.splits.rule == "own" else (spec.splits.test,)
    cap = f", at most {spec.max_train:,} training rows" if spec.max_train else ""
    papers_of = {"source": spec.source_of, "target": spec.target_of}
    roles = [f"{role} of {' and '.join(papers)}" for role, papers in papers_of.items() if papers]
    lines = [
        f"{name}: {spec.content}",
        f"  hub: {spec.hub}{f', config {spec.config}' if spec.config else ''}",
        f"  text: {spec.text(dict.fromkeys(spec.inputs.names, '…'))}",
        f"  answers: {digits}{_listed(spec.words)}" if spec.words else "  answers: free text",
        f"  splits: {spec.splits.rule}: {', '.join(map('+'.join, splits))}{cap}",
        f"  metric: {', '.join((spec.metric, *spec.more_metrics))}; {spec.max_length} tokens",
        f"  used by: {'; '.join(roles)}",
    ]
    return "\n".join(lines)


def _listed(words: Sequence[str]) -> str:
    if len(words) <= _SHOWN_CHOICES:
        return ", ".join(words)
    return f"{words[0]}, {words[1]}, …, {words[-1]}"
