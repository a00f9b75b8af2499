"""`prompttransfer train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.completion import METHOD_NAMES
from prompttransfer.cli.given import given_settings
from prompttransfer.cli.support import (
    default_of,
    friendly_errors,
    method_names,
    print_run,
    run,
    task_names,
    train_settings,
)
from prompttransfer.files.texts import show


def train(
    task: Annotated[
        str,
        typer.Argument(
            help="A demo task, one of the papers' data sets, or a file. " + o.FILES, autocompletion=completion.task_name
        ),
    ],
    prompt: Annotated[Path, typer.Argument(help="Prompt file to write (.safetensors).")],
    recipe: o.Recipe = None,
    assigned: o.Assigned = None,
    limit: o.Limit = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(METHOD_NAMES)}.", show_default="PT", autocompletion=completion.method_name
        ),
    ] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            help="Tasks to transfer from; PT needs none. " + o.TASKS,
            show_default=default_of("sources"),
            autocompletion=completion.task_names,
        ),
    ] = None,
    model: o.Model = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    data_dir: o.DataDir = None,
    answers: o.Answers = None,
    bad_rows: o.BadRows = None,
    train_rows: Annotated[
        str | None, typer.Option(help="Training rows, or all.", show_default="2000", rich_help_panel=o.DATA)
    ] = None,
    test_rows: Annotated[
        str | None, typer.Option(help="Test rows, or all.", show_default="200", rich_help_panel=o.DATA)
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(help="Optimizer updates on the task's rows.", show_default="100", rich_help_panel=o.TRAINING),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Draw of the rows and order of the batches.", show_default="42", rich_help_panel=o.TRAINING),
    ] = None,
    prompt_length: o.PromptLength = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    precision: o.Precision = None,
    shard_model: o.ShardModel = None,
    max_length: o.MaxLength = None,
    scoring: o.Scoring = None,
    variant: o.Variant = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train one prompt on one task and write it to a file.

    Examples:

    `prompttransfer train amazon amazon.safetensors`

    `prompttransfer train reviews.csv reviews.safetensors --method SPoT --sources amazon,tweets --train-rows 32`

    `prompttransfer train train.csv:test.csv reviews.safetensors --text-column review --label-column stars`

    The folder `<prompt>.run` beside the file keeps the settings, results and learning curve.
    """
    options = {
        "model": model,
        "sources": task_names(sources),
        "targets": (task,),
        "text_column": text_column,
        "label_column": label_column,
        "data_dir": data_dir,
        "answers": answers,
        "bad_rows": bad_rows,
        "methods": None if method is None else method_names([method]),
        "seeds": None if seed is None else (seed,),
        "train_rows": train_rows,
        "test_rows": test_rows,
        "target_updates": updates,
        "prompt_length": prompt_length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "shard_model": shard_model,
        "max_length": max_length,
        "scoring": scoring,
        "variant": variant,
        "output": prompt.with_name(prompt.name + ".run"),
    }
    with friendly_errors(debug, resumes=True):
        from prompttransfer import read_recipe

        config = train_settings(read_recipe(recipe), given_settings(options, assigned), limit)
        results = run(config, quiet or as_json)
        from prompttransfer.interchange import read_tensors, write_tensors

        made = results.folder / str(results.rows[0].prompt)
        scored = made.with_name(f"{made.stem}-module.safetensors")  # where the prompt depends on the row
        write_tensors(prompt, *read_tensors(scored if scored.is_file() else made))
        print_run(results, as_json)
        if not as_json:
            show(f"prompt: {prompt}")
