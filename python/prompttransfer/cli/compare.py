"""`prompttransfer compare`."""

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
)
from prompttransfer.settings.recipes import run_config


def compare(
    recipe: o.Recipe = None,
    assigned: o.Assigned = None,
    limit: o.Limit = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            help="Tasks to transfer from. " + o.TASKS,
            show_default=default_of("sources"),
            rich_help_panel=o.WHAT,
            autocompletion=completion.task_names,
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            help="Few-shot tasks to transfer to. " + o.TASKS,
            show_default=default_of("targets"),
            rich_help_panel=o.WHAT,
            autocompletion=completion.task_names,
        ),
    ] = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    data_dir: o.DataDir = None,
    answers: o.Answers = None,
    bad_rows: o.BadRows = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Of {', '.join(METHOD_NAMES)}.",
            show_default=default_of("methods"),
            rich_help_panel=o.WHAT,
            autocompletion=completion.method_names,
        ),
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(
            help="Repetitions: few-shot rows and batch order.", show_default=default_of("seeds"), rich_help_panel=o.WHAT
        ),
    ] = None,
    train_rows: Annotated[
        str | None,
        typer.Option(
            help="Training rows per target, in all; or all.",
            show_default=default_of("train_rows"),
            rich_help_panel=o.DATA,
        ),
    ] = None,
    test_rows: Annotated[
        str | None,
        typer.Option(help="Test rows per task, or all.", show_default=default_of("test_rows"), rich_help_panel=o.DATA),
    ] = None,
    source_updates: Annotated[
        int | None,
        typer.Option(
            help="Optimizer updates of a source stage.",
            show_default=default_of("source_updates"),
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    target_updates: Annotated[
        int | None,
        typer.Option(
            help="Updates on target rows, the same for every method.",
            show_default=default_of("target_updates"),
            rich_help_panel=o.TRAINING,
        ),
    ] = None,
    prompt_length: o.PromptLength = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    model: o.Model = None,
    precision: o.Precision = None,
    shard_model: o.ShardModel = None,
    max_length: o.MaxLength = None,
    scoring: o.Scoring = None,
    variant: o.Variant = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Run folder; results of other settings in it move to a folder beside it.",
            show_default=default_of("output"),
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A small part of the demo: the recipe quick.")] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes of this machine that share the rows, each on a GPU of its own if any.")
    ] = 1,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train every method on every target at the same budget, and report the scores with what they cost.

    Examples:

    `prompttransfer compare`  (the demo: SmolLM2-135M, three sources, three targets, four methods, three seeds)

    `prompttransfer compare --quick`  (PT and DTVG, one source, one target: about 90 seconds on 2 cores)

    `prompttransfer compare --targets mrpc,rte --methods PT,MPT --seeds 1,2 --output runs/pairs`

    `prompttransfer compare --model my/folder --sources amazon,r8 --targets reviews.csv --output runs/reviews`

    `prompttransfer compare --recipe papers/mpt_t5_base --limit 32`

    `prompttransfer compare --methods PT,MPT --variant paper --set mpt.ablation=no-distillation --output runs/mpt`

    Stopped with Ctrl-C, the same command goes on where it was; finished stages are never repeated. Started in several
    shells, or on several machines that share the run folder, the same command shares the work.
    """
    options = {
        "model": model,
        "sources": task_names(sources),
        "targets": task_names(targets),
        "text_column": text_column,
        "label_column": label_column,
        "data_dir": data_dir,
        "answers": answers,
        "bad_rows": bad_rows,
        "methods": method_names(methods),
        "seeds": task_names(seeds),
        "train_rows": train_rows,
        "test_rows": test_rows,
        "source_updates": source_updates,
        "target_updates": target_updates,
        "prompt_length": prompt_length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "shard_model": shard_model,
        "max_length": max_length,
        "scoring": scoring,
        "variant": variant,
        "output": output,
    }
    with friendly_errors(debug, resumes=True):
        from prompttransfer import read_recipe

        if quick and recipe is not None:
            raise ValueError("--quick is a recipe of its own; want it or --recipe, got both")
        recipe = "quick" if quick else recipe
        config = run_config(read_recipe(recipe), given_settings(options, assigned), limit=limit)
        print_run(run(config, quiet or as_json, workers), as_json)
