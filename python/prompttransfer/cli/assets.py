"""`prompttransfer assets`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from prompttransfer.cli.command import Result, command
from prompttransfer.cli.completion import asset_names
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.texts import show


@command()
def assets(
    progress: ProgressReporter,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Assets or parts of the cache. Default: all.", autocompletion=asset_names),
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is not in the cache yet.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the named ones from the cache.")] = False,
    tasks: Annotated[
        bool,
        typer.Option(
            "--tasks",
            help="List the named tasks of the demo and the papers. With names or files: show the rows, answers and an "
            "example of each; demo data is downloaded if needed.",
        ),
    ] = False,
) -> Result:
    """List, fetch or remove the model and data of the demo, and list the named tasks.

    They are stored in `$PROMPTTRANSFER_CACHE` or `~/.cache/prompttransfer`. Before a machine goes offline, fetch them
    all (290 MB). Removed ones are downloaded or computed again when they are needed.

    ```bash
    prompttransfer assets
    prompttransfer assets --fetch
    prompttransfer assets --remove stages old
    prompttransfer assets --tasks
    prompttransfer assets --tasks sst2 glue/mnli
    ```
    """
    if fetch + remove + tasks > 1:
        raise ValueError("--fetch, --remove and --tasks: got several, want one of them")
    with progress:
        if tasks:
            return _tasks(names or [], progress)
        return _assets(names or [], progress, fetch_them=fetch, remove_them=remove)


def _tasks(names: list[str], progress: ProgressReporter) -> Result:
    from prompttransfer.cli.tables import print_table
    from prompttransfer.cli.task_listing import all_tasks, task_facts

    if names:
        facts = [task_facts(name, progress) for name in names]
        texts = [fact.pop("text") for fact in facts]
        return Result(facts, lambda: show("\n".join(texts)))
    tasks = all_tasks()

    def display() -> None:
        rows = [
            {"task": task["name"], "content": task["content"], "answers": len(task["choices"]) or "text"}
            | {"metric": task["metric"], "data": task["from"]}
            for task in tasks
        ]
        print_table(rows, right=("answers",))
        show("for details and an example: prompttransfer assets --tasks NAME")

    return Result(tasks, display)


def _assets(names: list[str], progress: ProgressReporter, *, fetch_them: bool, remove_them: bool) -> Result:
    from prompttransfer.files.assets import fetch
    from prompttransfer.files.assets.table import ASSETS
    from prompttransfer.files.cache_parts import check_part, remove, size

    for name in names:
        check_part(name)
        if fetch_them and name not in ASSETS:
            raise ValueError(
                f"{name} cannot be fetched, because it is created on this machine; want one of {', '.join(ASSETS)}"
            )
    if remove_them and not names:
        raise ValueError(
            "--remove: got no names; give assets or parts of the cache (`prompttransfer assets` lists them)"
        )
    for name in names or ASSETS:
        if fetch_them:
            fetch(name, progress)
        elif remove_them:
            progress.note(f"{name}: {size(remove(name))} freed")
    facts = _facts(names)
    return Result(facts, lambda: _print(facts))


def _facts(names: list[str]) -> dict[str, Any]:
    """The cache folder, the assets and the other parts of the cache; all of them, or the named ones."""
    from prompttransfer.files.assets import is_fetched
    from prompttransfer.files.assets.table import ASSETS
    from prompttransfer.files.cache import cache_folder, folder_bytes
    from prompttransfer.files.cache_parts import PARTS, folders_of

    assets = [
        {name: getattr(asset, name) for name in ("name", "version", "megabytes", "licence", "content")}
        | {"in_cache": is_fetched(asset.name)}
        for asset in ASSETS.values()
        if not names or asset.name in names
    ]
    parts = [
        {"name": name, "bytes": sum(map(folder_bytes, folders_of(name))), "content": part.content}
        for name, part in PARTS.items()
        if not names or name in names
    ]
    return {"cache": str(cache_folder()), "assets": assets, "parts": parts}


def _print(facts: dict[str, Any]) -> None:
    from prompttransfer.cli.tables import print_table
    from prompttransfer.files.cache_parts import size

    assets = [
        {"asset": f"{asset['name']} {asset['version']}", "MB": f"{asset['megabytes']:g}"}
        | {"in cache": "yes" if asset["in_cache"] else "no", "licence": asset["licence"], "content": asset["content"]}
        for asset in facts["assets"]
    ]
    parts = [
        {"also in the cache": part["name"], "size": size(part["bytes"]) if part["bytes"] else ""}
        | {"content": part["content"]}
        for part in facts["parts"]
    ]
    for rows in filter(None, (assets, parts)):
        print_table(rows, right=("MB", "in cache", "size"))
    show(f"cache: {facts['cache']}")
