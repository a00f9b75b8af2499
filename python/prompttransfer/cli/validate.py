"""`prompttransfer validate`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.command import Result, command
from prompttransfer.cli.errors import FAILED
from prompttransfer.cli.setting_options import collect_settings
from prompttransfer.files.texts import show
from prompttransfer.settings.recipes import run_config


@command(settings=("model", "data_dir"), defaults={"model": "the model of the recipe"})
def validate(
    options: dict[str, Any],
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            autocompletion=completion.recipe,
            help="A built-in recipe, such as demo, or a YAML or JSON file.",
        ),
    ],
    assigned: o.Assigned = None,
    limit: o.Limit = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show only what is missing.")] = False,
) -> Result:
    """Explain what a recipe would run: stages, rows, updates, memory, time, and what is missing on this machine.

    No weights are loaded and nothing is downloaded. Exit code 0: everything is there. 1: something is missing; the
    output shows the command that gets it. 2: the settings are invalid.

    ```bash
    prompttransfer validate demo
    prompttransfer validate papers/mpt_t5_base --data-dir mirror
    prompttransfer validate my-recipe.yaml --json
    ```
    """
    from prompttransfer import read_recipe
    from prompttransfer.cli.explanation import print_explanation
    from prompttransfer.estimate import explain

    asked = read_recipe(recipe)
    explanation = explain(run_config(asked, collect_settings(options, assigned), limit=limit), asked)

    def display() -> None:
        if not quiet:
            print_explanation(explanation)
            return
        for what, way in explanation.missing:
            show(f"{what}: {way}")

    return Result(explanation.as_dict(), display, 0 if explanation.ready else FAILED)
