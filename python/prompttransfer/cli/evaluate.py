"""`prompttransfer evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.given import given_settings
from prompttransfer.cli.support import default_of, friendly_errors, shown_progress
from prompttransfer.files.texts import show, show_json
from prompttransfer.settings.recipes import run_config


def evaluate(
    prompt: Annotated[Path, typer.Argument(help="Prompt file of `train` or `compare` (.safetensors).")],
    task: Annotated[
        str,
        typer.Argument(
            help="A demo task, one of the papers' data sets, or a file. " + o.FILES, autocompletion=completion.task_name
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="demo, a hub id, or a local folder.",
            show_default="the model of the prompt file",
            rich_help_panel=o.MODEL,
            autocompletion=completion.model,
        ),
    ] = None,
    text_column: o.TextColumn = None,
    label_column: o.LabelColumn = None,
    data_dir: o.DataDir = None,
    answers: o.Answers = None,
    bad_rows: o.BadRows = None,
    test_rows: Annotated[
        str | None,
        typer.Option(
            help="At most so many rows, or all.",
            show_default="all of a file, 200 of a named task",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            help="auto, float32 or bfloat16.",
            show_default=f"as trained, or {default_of('precision')}",
            rich_help_panel=o.MODEL,
            autocompletion=completion.setting("precision"),
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Text tokens kept of a row, the last ones.",
            show_default=f"as trained, or {default_of('max_length')}",
            rich_help_panel=o.MODEL,
        ),
    ] = None,
    scoring: o.Scoring = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Score a trained prompt on a task, beside the zero-shot and the majority-class score.

    Of a named task or a `train.csv:test.csv` pair, test rows are scored; of a single file, all rows.

    Examples:

    `prompttransfer evaluate runs/demo/prompts/PT/sst2-seed42.safetensors movies`

    `prompttransfer evaluate reviews.safetensors new-reviews.csv`
    """
    with friendly_errors(debug):
        from prompttransfer import read_recipe
        from prompttransfer.serving.evaluate import evaluate_file
        from prompttransfer.tasks.scales import scale_of

        # The settings check the options as they do for a run; sources and methods play no part here.
        options = {
            "targets": (task,),
            "sources": (),
            "methods": ("PT",),
            "model": model,
            "text_column": text_column,
            "label_column": label_column,
            "data_dir": data_dir,
            "answers": answers,
            "bad_rows": bad_rows,
            "test_rows": test_rows,
            "precision": precision,
            "max_length": max_length,
            "scoring": scoring,
        }
        with shown_progress(quiet or as_json) as progress:
            given = given_settings(options)
            facts = evaluate_file(prompt, run_config(read_recipe(None), given), progress, given=set(given))
        if as_json:
            show_json(facts)
            return
        width = max(map(len, facts))
        for name, value in facts.items():
            if value == {}:  # no other scores
                continue
            if name == "other_scores":
                value = ", ".join(f"{metric} {scale_of(metric).text(score)}" for metric, score in value.items())
            show(f"{name.replace('_', ' '):<{width}}  {f'{value:.1f}' if isinstance(value, float) else value}")
