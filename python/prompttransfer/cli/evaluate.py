"""`prompttransfer evaluate`."""

from __future__ import annotations

from typing import Any

from prompttransfer.cli import options as o
from prompttransfer.cli.command import Result, command
from prompttransfer.cli.setting_options import DATA, MODEL, SETTINGS, collect_settings
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.texts import show
from prompttransfer.settings.recipes import run_config


@command(
    settings=[name for name in (*SETTINGS[DATA], *SETTINGS[MODEL]) if name not in ("train_rows", "shard_model")],
    defaults={
        "model": "the model of the prompt file",
        "test_rows": "all of a file, 200 of a named task",
        "precision": "as trained, or auto",
        "max_length": "as trained, or 64",
    },
    prints=True,
)
def evaluate(progress: ProgressReporter, options: dict[str, Any], prompt: o.PromptFile, task: o.Task) -> Result:
    """Score a trained prompt on a task, next to the zero-shot score and the majority-class score.

    For a named task or a `train.csv:test.csv` pair, the test rows are scored; for a single file, all rows.

    ```bash
    prompttransfer evaluate runs/demo/prompts/PT/sst2-seed42.safetensors movies
    prompttransfer evaluate reviews.safetensors new-reviews.csv
    ```
    """
    from prompttransfer import evaluate_file, read_recipe

    # RunConfig checks the options as for a run. Sources and methods have no effect here.
    settings = collect_settings(options | {"targets": (task,), "sources": (), "methods": ("PT",)})
    with progress:
        facts = evaluate_file(prompt, run_config(read_recipe(None), settings), progress, given=set(settings))
    return Result(facts, lambda: _print(facts))


def _print(facts: dict[str, Any]) -> None:
    from prompttransfer.tasks.scales import scale_of

    width = max(map(len, facts))
    for name, value in facts.items():
        if value == {}:  # there are no other scores
            continue
        if name == "other_scores":
            value = ", ".join(f"{metric} {scale_of(metric).text(score)}" for metric, score in value.items())
        show(f"{name.replace('_', ' '):<{width}}  {f'{value:.1f}' if isinstance(value, float) else value}")
