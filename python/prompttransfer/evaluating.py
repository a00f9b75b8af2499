"""A prompt file scored on a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompttransfer.compare import load_backbone
from prompttransfer.config import RunConfig
from prompttransfer.evaluation import evaluate
from prompttransfer.export import read_prompt
from prompttransfer.methods.context import EncodedTask
from prompttransfer.tasks import load_task


def evaluate_file(path: Path, config: RunConfig, progress: Any, *, model_given: bool) -> dict[str, Any]:
    """Score of a prompt file on the task config.targets[0], with the scores it has to be compared with.

    Args:
        config: model, rows, columns, precision and max_length are used.
        model_given: config.model was asked for; otherwise the model that the prompt was trained on is loaded.
    """
    prompt, metadata = read_prompt(path)
    if not model_given:
        config = config.model_copy(update={"model": metadata.get("model", config.model)})
    columns = {"text_column": config.text_column, "label_column": config.label_column}
    task = load_task(config.targets[0], test_rows=config.test_rows, progress=progress, **columns)
    backbone = load_backbone(config, progress)
    trained_on = metadata.get("model_fingerprint")
    if trained_on and trained_on != backbone.fingerprint:
        progress.note("note: this prompt was trained on a model with other weights")
    encoded = EncodedTask.of(task, backbone)

    def scored(title: str, tensor: Any) -> Any:
        handle = progress.stage(title, len(encoded.test))
        try:
            return evaluate(
                backbone,
                tensor,
                encoded.test,
                encoded.labels,
                encoded.answers,
                encoded.metric,
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
        "score": found.score,
        "majority": found.majority,
        "zero_shot": zero_shot.score,
        "collapsed": found.collapsed,
        "test_rows": found.rows,
        "prompt_tokens": prompt.shape[0],
    }
