"""What the commands share: option values, settings, a run and its results."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import typer

from prompttransfer.cli.completion import METHOD_NAMES
from prompttransfer.cli.errors import friendly_errors
from prompttransfer.distributed import processes
from prompttransfer.files.texts import show, show_json
from prompttransfer.settings.recipes import Recipe, run_config
from prompttransfer.settings.run import RunConfig

if TYPE_CHECKING:
    from prompttransfer.files.progress import NullProgress
    from prompttransfer.report import Results

__all__ = [
    "default_of",
    "friendly_errors",
    "method_names",
    "print_run",
    "run",
    "shown_progress",
    "task_names",
    "train_settings",
]


def default_of(name: str) -> str:
    """The default of a setting, for the help text."""
    value = RunConfig.model_fields[name].default
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def task_names(values: list[str] | None) -> tuple[str, ...] | None:
    """Values of a repeated option, those with commas taken apart."""
    if values is None:
        return None
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def method_names(values: list[str] | None) -> tuple[str, ...] | None:
    """Method names in any case."""
    names = task_names(values)
    known = {name.lower(): name for name in METHOD_NAMES}
    return None if names is None else tuple(known.get(name.lower(), name) for name in names)


# What `train` does where neither a recipe nor an option says otherwise.
TRAIN_DEFAULTS = {"methods": ("PT",), "train_rows": 2000, "test_rows": 200, "target_updates": 100, "seeds": (42,)}


def train_settings(recipe: Recipe, given: dict[str, Any], limit: int | None = None) -> RunConfig:
    """Settings of `train`: one task, one method, one seed.

    Of several methods or seeds in a recipe, such as that of a comparison, the first is meant. Without named sources,
    the demo's serve, but never the task itself.
    """
    settings = {**TRAIN_DEFAULTS, **recipe.settings}
    for name in ("methods", "seeds"):
        if isinstance(settings[name], list | tuple):  # anything else is refused below
            settings[name] = tuple(settings[name][:1])
    if given.get("methods", settings["methods"]) == ("PT",):
        given = given | {"sources": ()}
    elif "sources" not in settings | given:
        default = RunConfig.model_fields["sources"].default
        settings["sources"] = tuple(name for name in default if name not in given["targets"])
    return run_config(replace(recipe, settings=settings), given, limit=limit)


def shown_progress(silent: bool) -> NullProgress:
    """Bars or lines on the error stream; silent: warnings alone."""
    from prompttransfer.files.progress import Progress, QuietProgress

    return QuietProgress() if silent else Progress()


def run(config: RunConfig, silent: bool, workers: int = 1) -> Results:
    """Compare, write the report, and return the results; of several processes, only the main one returns.

    Args:
        workers: how many processes of this machine share the rows.
    """
    with shown_progress(silent or not processes.is_main()) as progress:
        progress.note("loading libraries")
        from prompttransfer.models.loading import read_configuration
        from prompttransfer.report import read_results, write_report
        from prompttransfer.runs.compare import compare as run_comparison
        from prompttransfer.runs.local_workers import local_workers
        from prompttransfer.tasks import check_name

        # Before anything is fetched.
        for name in (*config.sources, *config.targets):
            check_name(name)
        if config.model != "demo":
            read_configuration(config.model)
        with local_workers(config, workers, progress):
            folder = run_comparison(config, progress)
        processes.finish()
        if not processes.is_main():
            raise typer.Exit
        write_report(folder)
    return read_results(folder)


def print_run(results: Results, as_json: bool) -> None:
    """The results as a table with the way to the report, or as JSON."""
    if as_json:
        show_json(results.content)
        return
    from prompttransfer.cli.listing import wide_console
    from prompttransfer.report.terminal import print_results

    print_results(results, wide_console())
    show(f"report: {results.folder / 'report.html'}\nall files: {results.folder}")
