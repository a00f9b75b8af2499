"""`prompttransfer train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.command import Result, command
from prompttransfer.cli.running import result_of, run
from prompttransfer.cli.setting_options import DATA, MODEL, SETTINGS, TASKS, TRAINING, collect_settings
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.settings.recipes import Recipe, run_config
from prompttransfer.settings.run import RunConfig

# Defaults if neither a recipe nor an option sets a value.
_DEFAULTS: dict[str, Any] = {
    "methods": ("PT",),
    "train_rows": 2000,
    "test_rows": 200,
    "target_updates": 100,
    "seeds": (42,),
}


@command(
    settings=(
        "sources",
        *SETTINGS[DATA],
        *SETTINGS[MODEL],
        *(name for name in SETTINGS[TRAINING] if not name.endswith("_updates")),
    ),
    defaults=_DEFAULTS,
    resumes=True,
)
def train(
    progress: ProgressReporter,
    options: dict[str, Any],
    task: o.Task,
    prompt: Annotated[Path, typer.Argument(help="Prompt file to write (.safetensors).")],
    recipe: o.Recipe = None,
    assigned: o.Assigned = None,
    limit: o.Limit = None,
    method: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=TASKS,
            autocompletion=completion.method_name,
            help=f"Method to train with: {', '.join(completion.METHOD_NAMES)}. PT needs no sources.",
            show_default=_DEFAULTS["methods"][0],
        ),
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=TRAINING,
            help="Number of optimizer updates on the task's rows.",
            show_default=str(_DEFAULTS["target_updates"]),
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=TRAINING,
            help="Random seed: which training rows are used, and in which order.",
            show_default=str(_DEFAULTS["seeds"][0]),
        ),
    ] = None,
) -> Result:
    """Train one prompt on one task and write it to a file.

    ```bash
    prompttransfer train amazon amazon.safetensors
    prompttransfer train reviews.csv reviews.safetensors --method SPoT --sources amazon,tweets --train-rows 32
    prompttransfer train train.csv:test.csv reviews.safetensors --text-column review --label-column stars
    ```

    The settings, the results and the learning curve are in the folder `<prompt>.run` next to the file.
    """
    from prompttransfer import read_recipe
    from prompttransfer.interchange import read_tensors, write_tensors

    own = {
        "targets": (task,),
        "methods": None if method is None else (method,),
        "seeds": None if seed is None else (seed,),
        "target_updates": updates,
        "output": prompt.with_name(prompt.name + ".run"),
    }
    results = run(_settings(read_recipe(recipe), collect_settings(options | own, assigned), limit), progress)
    trained = results.folder / str(results.rows[0].prompt)
    scored = trained.with_name(f"{trained.stem}-module.safetensors")  # if the prompt depends on the row
    write_tensors(prompt, *read_tensors(scored if scored.is_file() else trained))
    return result_of(results, f"prompt: {prompt}")


def _settings(recipe: Recipe, options: dict[str, Any], limit: int | None) -> RunConfig:
    """Settings for one task, one method and one seed.

    If a recipe has several methods or seeds, such as that of a comparison, the first one is used. Without sources in
    the settings, the demo's sources are used, except for the task itself.
    """
    settings = {**_DEFAULTS, **recipe.settings}
    for name in ("methods", "seeds"):
        if isinstance(settings[name], list | tuple):  # anything else is an error below
            settings[name] = tuple(settings[name][:1])
    if "sources" not in settings | options:
        default = RunConfig.model_fields["sources"].default
        settings["sources"] = tuple(name for name in default if name not in options["targets"])
    config = run_config(replace(recipe, settings=settings), options, limit=limit)
    return config if config.transfers else config.model_copy(update={"sources": ()})
