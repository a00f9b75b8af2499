"""The data sets of the papers, as table.yaml lists them, and what is known about each, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prompttransfer.files.yaml_file import read_yaml
from prompttransfer.tasks.papers.fields import INPUTS, SIMILARITIES, TARGETS, class_label, named
from prompttransfer.tasks.papers.spec import PaperTask, Splits


def _paper_task(
    name: str,
    *,
    inputs: str | Sequence[str] | Mapping[str, str],
    target: str | None = None,
    words: Sequence[str] = (),
    splits: Mapping[str, Any],
    metrics: Sequence[str] = ("accuracy",),
    **settings: Any,
) -> PaperTask:
    if isinstance(inputs, str):
        read = INPUTS[inputs]
    else:
        read = named(inputs if isinstance(inputs, Mapping) else dict(zip(inputs, inputs, strict=True)))
    return PaperTask(
        name=name,
        inputs=read,
        target=TARGETS[target] if target else class_label(len(words)),
        words=SIMILARITIES if target == "similarity" else tuple(words),
        splits=Splits(splits["rule"], **{part: tuple(names) for part, names in splits.items() if part != "rule"}),
        metric=metrics[0],
        more_metrics=tuple(metrics[1:]),
        **{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()},
    )


_SHOWN_CHOICES = 5

PAPER_TASKS: dict[str, PaperTask] = {
    name: _paper_task(name, **settings)
    for name, settings in read_yaml(Path(__file__).with_name("table.yaml")).items()
    if name != "shared"
}


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
