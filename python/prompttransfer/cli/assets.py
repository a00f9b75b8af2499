"""`prompttransfer assets`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.completion import asset_names
from prompttransfer.cli.errors import friendly_errors
from prompttransfer.cli.support import shown_progress
from prompttransfer.files.texts import show, show_json

if TYPE_CHECKING:
    from prompttransfer.files.progress import ProgressReporter


def assets(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Assets, or parts of the cache; all if not given.", autocompletion=asset_names),
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is not in the cache yet.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the named ones from the cache.")] = False,
    tasks: Annotated[
        bool,
        typer.Option(
            "--tasks",
            help="Show all tasks that have a name, of the demo and of the papers; or the named ones, or files, with "
            "rows, answers and an example, for which demo data is fetched.",
        ),
    ] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """List, fetch or remove the demo's model and data, and show the tasks that have a name.

    They lie in `$PROMPTTRANSFER_CACHE` or `~/.cache/prompttransfer`. For a machine that goes off line afterwards,
    fetch them all (290 MB). What is removed comes back when it is needed.

    Examples:

    `prompttransfer assets`

    `prompttransfer assets --fetch`

    `prompttransfer assets --remove stages old`

    `prompttransfer assets --tasks`

    `prompttransfer assets --tasks sst2 glue/mnli`
    """
    with friendly_errors(debug):
        if fetch + remove + tasks > 1:
            raise ValueError("--fetch, --remove and --tasks: got several, want one of them")
        with shown_progress(quiet or as_json) as progress:
            if tasks:
                facts, display = _tasks(names or [], progress)
            else:
                facts, display = _assets(names or [], progress, fetch_them=fetch, remove_them=remove)
        if as_json:
            show_json(facts)
        else:
            display()


def _tasks(names: list[str], progress: ProgressReporter) -> Any:
    """What is known about tasks, and what prints it."""
    from prompttransfer.cli.task_listing import all_tasks, print_all_tasks, task_facts

    if not names:
        return all_tasks(), print_all_tasks
    facts = [task_facts(name, progress) for name in names]
    texts = [fact.pop("text") for fact in facts]
    return facts, lambda: show("\n".join(texts))


def _assets(names: list[str], progress: ProgressReporter, *, fetch_them: bool, remove_them: bool) -> Any:
    """What is known about assets after they were fetched or removed, and what prints it."""
    from prompttransfer.cli.listing import asset_facts, print_assets
    from prompttransfer.files.assets import fetch as fetch_asset
    from prompttransfer.files.assets.table import ASSETS
    from prompttransfer.files.cache_parts import check_part, remove, size

    for name in names:
        check_part(name)
        if fetch_them and name not in ASSETS:
            raise ValueError(f"{name} is not fetched but made; assets to fetch are {', '.join(ASSETS)}")
    if remove_them and not names:
        raise ValueError("--remove: got no names, want those of assets or parts of the cache (`prompttransfer assets`)")
    for name in names or ASSETS:
        if fetch_them:
            fetch_asset(name, progress)
        elif remove_them:
            progress.note(f"{name}: {size(remove(name))} freed")
    facts = asset_facts(names)
    return facts, lambda: print_assets(facts)
