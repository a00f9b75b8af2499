"""`prompttransfer validate`."""

from __future__ import annotations

from typing import Annotated

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.given import given_settings
from prompttransfer.cli.support import friendly_errors
from prompttransfer.files.texts import show, show_json
from prompttransfer.settings.recipes import run_config


def validate(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            autocompletion=completion.recipe,
            help="A recipe that is shipped, such as demo, or a YAML or JSON file.",
        ),
    ],
    assigned: o.Assigned = None,
    limit: o.Limit = None,
    model: o.Model = None,
    data_dir: o.DataDir = None,
    as_json: o.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only what is missing.")] = False,
    debug: o.Debug = False,
) -> None:
    """Explain what a recipe would run: stages, rows, updates, memory, time, and what is missing on this machine.

    No weights are loaded, nothing is downloaded. Exit code 0: all is there; 1: something is missing, with the command
    that gets it; 2: the settings are refused.

    Examples:

    `prompttransfer validate demo`

    `prompttransfer validate papers/mpt_t5_base --data-dir mirror`

    `prompttransfer validate my-recipe.yaml --json`
    """
    with friendly_errors(debug):
        from prompttransfer import read_recipe

        asked = read_recipe(recipe)
        given = given_settings({"model": model, "data_dir": data_dir}, assigned)
        config = run_config(asked, given, limit=limit)
        from prompttransfer.estimate import explain, print_explanation

        explanation = explain(config, asked)
        if as_json:
            show_json(explanation.as_dict())
        elif quiet:
            for what, command in explanation.missing:
                show(f"{what}: {command}")
        else:
            print_explanation(explanation)
    raise typer.Exit(0 if explanation.ready else 1)
