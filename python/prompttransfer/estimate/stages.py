"""The stages of a run with the tokens that pass through the model, for `prompttransfer.estimate.cost`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prompttransfer.estimate.model import ModelFacts
from prompttransfer.estimate.tasks import TaskFacts
from prompttransfer.methods import METHODS
from prompttransfer.methods.base import Scope, Stage, all_stages
from prompttransfer.settings.run import RunConfig


@dataclass(frozen=True)
class SizedStage:
    """A stage of a run.

    Attributes:
        rows: number of training rows, or of scored rows for the scoring; None: unknown.
        updates: number of updates; None: unknown, because it depends on the rows; 0: the stage trains nothing.
        batch: rows per update.
        trained: number of trained parameters; None: the model is unknown.
        trained_on: tokens per update that pass through the model forward and backward.
        read_only: tokens per update that pass through the model forward only.
        written: tokens per update that pass through a decoder, forward and backward.
        longest: tokens of a row with its prompt, for the attention of all pairs.
        times: number of repetitions, one per seed.
    """

    title: str
    rows: int | None
    updates: int | None
    batch: int
    trained: int | None
    trained_on: float = 0.0
    read_only: float = 0.0
    written: float = 0.0
    longest: float = 0.0
    times: int = 1


def stages(
    config: RunConfig, model: ModelFacts | None, sources: Sequence[TaskFacts], targets: Sequence[TaskFacts]
) -> list[SizedStage]:
    """All stages in the order of a run, each listed once, and the scoring of all prompts."""
    methods = [METHODS[name] for name in config.methods]
    scope = Scope(config, tuple(sources), tuple(targets), config.prompt_length, model.hidden if model else 0)
    seeds = len(config.seeds)
    training = [
        _sized(stage, config, model, times=(seeds if config.retrain_sources else 1) if on_sources else seeds)
        for stage, on_sources in all_stages(methods, scope)
    ]
    return [*training, _scoring(config, model, sources, targets)]


def _sized(stage: Stage, config: RunConfig, model: ModelFacts | None, times: int) -> SizedStage:
    tasks: Sequence[TaskFacts] = stage.tasks  # type: ignore[assignment]  # those that the scope was given
    length, batch = stage.length or config.prompt_length, stage.batch
    text, answer = _mean(tasks, "text"), _mean(tasks, "answer")
    seq2seq = model is not None and model.seq2seq
    drops = config.dropout == "model" and model is not None and model.dropout
    shared = not seq2seq and not stage.by_row and not drops  # a causal model reads a prompt once for all rows
    tokens = min(stage.prompts, batch) * length + batch * text if shared else batch * (length + text)
    trained_on = stage.passes * (tokens + (0 if seq2seq else batch * answer))
    read_only = trained_on if stage.taught else 0.0
    if stage.chosen and config.select_updates is not None:  # validation rows, per update
        read_only += sum((task.validation or 0) * _row(config, model, task) for task in tasks) / config.select_updates
    return SizedStage(
        stage.title,
        _sum(task.train for task in tasks),
        stage.updates,
        batch,
        None if model is None else stage.trained,
        trained_on=trained_on,
        read_only=read_only,
        written=stage.passes * batch * answer if seq2seq else 0.0,
        longest=length + text,
        times=times,
    )


def _scoring(
    config: RunConfig, model: ModelFacts | None, sources: Sequence[TaskFacts], targets: Sequence[TaskFacts]
) -> SizedStage:
    seeds = len(config.seeds)
    runs = [(task, seeds * len(config.methods) + 1) for task in targets]  # + 1: zero-shot
    if config.source_prompts:
        runs += [(task, 2 * (seeds if config.retrain_sources else 1)) for task in sources]
    rows = _sum(None if task.test is None else task.test * times for task, times in runs)
    tokens = sum((task.test or 0) * times * _row(config, model, task) for task, times in runs)
    return SizedStage("scoring", rows, 0, config.eval_batch_size, 0, read_only=tokens)


def _row(config: RunConfig, model: ModelFacts | None, task: TaskFacts) -> float:
    """Tokens of a scored row. A causal model reads a prompt once for all rows."""
    prompt = config.prompt_length if model is not None and model.seq2seq else 0
    return prompt + task.text + task.answer


def _sum(values: Iterable[int | None]) -> int | None:
    numbers = list(values)
    return None if None in numbers else sum(value or 0 for value in numbers)


def _mean(tasks: Sequence[TaskFacts], name: str) -> float:
    """Mean over the rows of the tasks, or over the tasks if their rows are unknown."""
    weights = [task.train or 0 for task in tasks]
    if not any(weights):
        weights = [1] * len(tasks)
    return sum(weight * getattr(task, name) for weight, task in zip(weights, tasks, strict=True)) / sum(weights)
