"""Score a prompt file on a task."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.interchange import Card, read_trained
from prompttransfer.interchange.hub import Place
from prompttransfer.models import Backbone
from prompttransfer.models.embeddings import Embeddings
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.scoring import evaluate
from prompttransfer.prompts import PromptModule
from prompttransfer.runs.workbench import load_backbone, model_options, task_options, warn_unknown
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks import DEMO_TASKS, load_task


def evaluate_file(
    path: Place, config: RunConfig, progress: ProgressReporter, *, given: Container[str] = ()
) -> dict[str, Any]:
    """Score a prompt file on the task config.targets[0], next to its baselines.

    Args:
        path: of the prompt file, or its hub ID.
        config: settings, of which model, rows, columns, precision and max_length are used.
        given: names of the settings that were set explicitly. Otherwise, model, precision and max_length are those of
            the prompt's training, and the rows of a file are not limited. All rows of a single file are scored; with
            two files, the rows of the second.
    """
    prompt, metadata = read_trained(path)
    card = Card.of(metadata, path)
    names = ("model", "precision", "max_length", "placement", "cue")
    trained = {name: getattr(card, name) for name in names if name not in given and getattr(card, name)}
    config = RunConfig(**{**config.model_dump(), **trained})
    name = config.targets[0]
    limit = config.test_rows if name in DEMO_TASKS or "test_rows" in given else None
    task = load_task(name, test_rows=limit, progress=progress, whole=True, **task_options(config))
    task = replace(task, join=card.join)  # as in the prompt's training
    progress.note(f"{task.name}: {len(task.test)} rows are scored")
    if not len(task.train) and card.task == task.name:
        progress.warn("note: this prompt was trained on a task of that name; rows it has seen count as well")
    with naming_the_way_out(path, named="model" in given):
        backbone = load_backbone(config.model, progress, **model_options(config))
    check_model(path, prompt, card, backbone, progress)
    encoded = EncodedTask.of(task, backbone, config.scoring, trains=False)
    warn_unknown(encoded, progress)

    def scored(title: str, tensor: Any) -> Any:
        size = config.eval_batch_size
        with closing(progress.stage(title, len(encoded.test))) as handle:
            return evaluate(backbone, tensor, encoded, batch_size=size, advance=handle.advance)

    evaluation, zero_shot = scored("prompt", prompt), scored("zero-shot", None)
    return {
        "task": task.name,
        "model": config.model,
        "metric": task.metric,
        "scoring": encoded.scoring,
        "score": evaluation.score,
        "other_scores": evaluation.more,
        "majority": evaluation.majority,
        "zero_shot": zero_shot.score,
        "collapsed": evaluation.collapsed,
        "test_rows": evaluation.rows,
        "prompt_tokens": prompt.length if isinstance(prompt, PromptModule) else len(prompt),
    }


@contextmanager
def naming_the_way_out(path: Place, *, named: bool) -> Iterator[None]:
    """Extend errors about the model of a prompt file: if its name is from the file, say how to name another.

    Args:
        named: whether the user named the model.
    """
    try:
        yield
    except (ValueError, ConnectionError) as error:
        if named:
            raise
        way_out = f"{path} was trained with that model; --model NAME names it where it is now"
        raise type(error)(f"{error}\n{way_out}") from error


def check_model(
    path: Place, prompt: Tensor | PromptModule, card: Card, backbone: Backbone | Embeddings, progress: ProgressReporter
) -> None:
    """Check that a prompt fits a model. Warns if the prompt was trained with other weights, if these are known."""
    width = prompt.hidden_size if isinstance(prompt, PromptModule) else prompt.shape[1]
    if width != backbone.hidden_size:
        own = f"; it was trained with {card.model}" if card.model else ""
        raise ValueError(f"{path}: got a prompt of width {width}, the model wants {backbone.hidden_size}{own}")
    if card.model_fingerprint and backbone.fingerprint and card.model_fingerprint != backbone.fingerprint:
        progress.warn("note: this prompt was trained on a model with other weights")
