"""A prompt file scored on a task."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.interchange import Card, read_trained
from prompttransfer.models import Backbone
from prompttransfer.models.embeddings import Embeddings
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.scoring import evaluate
from prompttransfer.prompts import PromptModule
from prompttransfer.runs.workbench import load_backbone, model_options, task_options, warn_unknown
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks import DEMO_TASKS, load_task


def evaluate_file(
    path: Path, config: RunConfig, progress: ProgressReporter, *, given: Container[str] = ()
) -> dict[str, Any]:
    """Score of a prompt file on the task config.targets[0], with the scores it has to be compared with.

    Args:
        config: model, rows, columns, precision and max_length are used.
        given: names of the settings that were asked for. Of the others, model, precision and max_length are those
            that the prompt was trained with, and the rows of a file are not limited. A single file is scored as a
            whole, of two files the second.
    """
    prompt, card = read_trained_prompt(path)
    config = as_trained(config, card, given)
    name = config.targets[0]
    limit = config.test_rows if name in DEMO_TASKS or "test_rows" in given else None
    task = load_task(name, test_rows=limit, progress=progress, whole=True, **task_options(config))
    task = replace(task, join=card.join)  # as the prompt has learnt it
    progress.note(f"{task.name}: {len(task.test)} rows are scored")
    if not len(task.train) and card.task == task.name:
        progress.warn("note: this prompt was trained on a task of that name; rows it has seen count as well")
    backbone = load_trained(path, config.model, progress, named="model" in given, **model_options(config))
    check_model(path, prompt, card, backbone, progress)
    encoded = EncodedTask.of(task, backbone, config.scoring, trains=False)
    warn_unknown(encoded, progress)

    def scored(title: str, tensor: Any) -> Any:
        handle = progress.stage(title, len(encoded.test))
        try:
            return evaluate(
                backbone,
                tensor,
                encoded,
                batch_size=config.eval_batch_size,
                advance=handle.advance,
            )
        finally:
            handle.close()

    found, zero_shot = scored("prompt", prompt), scored("zero-shot", None)
    return {
        "task": task.name,
        "model": config.model,
        "metric": task.metric,
        "scoring": encoded.scoring,
        "score": found.score,
        "other_scores": found.more,
        "majority": found.majority,
        "zero_shot": zero_shot.score,
        "collapsed": found.collapsed,
        "test_rows": found.rows,
        "prompt_tokens": prompt.length if isinstance(prompt, PromptModule) else len(prompt),
    }


def read_trained_prompt(path: Path) -> tuple[Tensor | PromptModule, Card]:
    """A prompt (L, H), or one that depends on the row, and its card.

    Raises:
        ValueError: no such file, or not of a trained prompt.
    """
    prompt, metadata = read_trained(path)
    return prompt, Card.of(metadata, path)


def as_trained(config: RunConfig, card: Card, given: Container[str] = ()) -> RunConfig:
    """Settings with what the prompt was trained with, where no other value was asked for by name."""
    names = ("model", "precision", "max_length", "placement", "cue")
    own = {name: getattr(card, name) for name in names if name not in given and getattr(card, name)}
    return RunConfig(**{**config.model_dump(), **own})


def load_trained(path: Path, name: str, progress: ProgressReporter, *, named: bool, **options: Any) -> Backbone:
    """The model of a prompt file.

    Args:
        named: the user has named it; else the card of the file does.
        options: of `load_model`.

    Raises:
        ValueError, ConnectionError: as `load_model`; where the card names it, with the way to name another.
    """
    with naming_the_way_out(path, named=named):
        return load_backbone(name, progress, **options)


@contextmanager
def naming_the_way_out(path: Path, *, named: bool) -> Iterator[None]:
    """An error about the model of a prompt file says how to name another, where the file has named it."""
    try:
        yield
    except (ValueError, ConnectionError) as error:
        if named:
            raise
        way_out = f"{path} was trained with that model; --model NAME names it where it is now"
        raise type(error)(f"{error}\n{way_out}") from error


def check_model(
    path: Path, prompt: Tensor | PromptModule, card: Card, backbone: Backbone | Embeddings, progress: ProgressReporter
) -> None:
    """Whether the model is the one that the prompt belongs to; other weights are told, where they were read.

    Raises:
        ValueError: its embeddings have another width.
    """
    width = prompt.hidden_size if isinstance(prompt, PromptModule) else prompt.shape[1]
    if width != backbone.hidden_size:
        own = f"; it was trained with {card.model}" if card.model else ""
        raise ValueError(f"{path}: got a prompt of width {width}, the model wants {backbone.hidden_size}{own}")
    if card.model_fingerprint and backbone.fingerprint and card.model_fingerprint != backbone.fingerprint:
        progress.warn("note: this prompt was trained on a model with other weights")
