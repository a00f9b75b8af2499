"""The data sets of the papers, as table.yaml lists them."""

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


PAPER_TASKS: dict[str, PaperTask] = {
    name: _paper_task(name, **settings)
    for name, settings in read_yaml(Path(__file__).with_name("table.yaml")).items()
    if name != "shared"
}
