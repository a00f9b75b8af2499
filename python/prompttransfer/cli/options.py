"""Arguments and options that several commands share and that are not settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import completion

PromptFile = Annotated[
    Path,
    typer.Argument(
        help="Prompt file (.safetensors) written by `train` or `compare`, or the hub ID of one: user/name, or "
        "user/name@revision."
    ),
]
Task = Annotated[
    str,
    typer.Argument(
        autocompletion=completion.task_name,
        help="A demo task, one of the papers' data sets (`prompttransfer assets --tasks` lists both), a .csv, .tsv, "
        ".jsonl or .parquet file, a pair `train.csv:test.csv`, or a .yaml description.",
    ),
]
Recipe = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        "--config",
        autocompletion=completion.recipe,
        metavar="NAME|FILE",
        help="Settings to start from: a built-in recipe such as papers/mpt_t5_base, or a YAML or JSON file such as the "
        "config.json of a run. Options override them.",
    ),
]
Assigned = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        autocompletion=completion.assignment,
        help="Any setting that has no option, by its name in a recipe, such as mpt.ablation=neither. May be repeated.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Quick try: at most this many training and test rows per task, and updates per stage."),
]
