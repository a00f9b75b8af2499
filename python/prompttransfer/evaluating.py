"""A prompt file scored on a task."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from prompttransfer.compare import load_backbone, other_scores, task_options
from prompttransfer.config import RunConfig
from prompttransfer.encoding import EncodedTask
from prompttransfer.evaluation import evaluate
from prompttransfer.interchange import read_prompt
from prompttransfer.tasks import DEMO_TASKS, load_task


def evaluate_file(path: Path, config: RunConfig, progress: Any, *, given: Container[str] = ()) -> dict[str, Any]:
    """Score of a prompt file on the task config.targets[0], with the scores it has to be compared with.

    Args:
        config: model, rows, columns, precision and max_length are used.
        given: names of the settings that were asked for. Of the others, model, precision and max_length are those
            that the prompt was trained with, and the rows of a file are not limited. A single file is scored as a
            whole, of two files the second.
    """
    prompt, metadata = read_prompt(path)
    trained_with = {
        name: metadata[name] for name in ("model", "precision", "max_length") if name in metadata and name not in given
    }
    config = RunConfig(**{**config.model_dump(), **trained_with})
    name = config.targets[0]
    limit = config.test_rows if name in DEMO_TASKS or "test_rows" in given else None
    task = load_task(name, test_rows=limit, progress=progress, whole=True, **task_options(config))
    progress.note(f"{task.name}: {len(task.test)} rows are scored")
    if not len(task.train) and metadata.get("task") == task.name:
        progress.note("note: this prompt was trained on a task of that name; rows it has seen count as well")
    backbone = load_backbone(config, progress)
    trained_on = metadata.get("model_fingerprint")
    if trained_on and trained_on != backbone.fingerprint:
        progress.note("note: this prompt was trained on a model with other weights")
    encoded = EncodedTask.of(task, backbone, config.scoring, trains=False)

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
        "other_scores": other_scores(found),
        "majority": found.majority,
        "zero_shot": zero_shot.score,
        "collapsed": found.collapsed,
        "test_rows": found.rows,
        "prompt_tokens": prompt.shape[0],
    }
