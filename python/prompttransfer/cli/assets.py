"""`prompttransfer assets`."""

from __future__ import annotations

from typing import Annotated

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.support import friendly_errors, shown_progress


def assets(
    names: Annotated[list[str] | None, typer.Argument(help="Assets; all if not given.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is not in the cache yet.")] = False,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Show the demo tasks: rows, labels, an example; fetches their data.")
    ] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """List the demo's model and data: size, licence, whether they are in the cache.

    `prompttransfer assets --fetch` gets them all (290 MB), for a machine that goes off line afterwards. They lie in
    `$PROMPTTRANSFER_CACHE` or `~/.cache/prompttransfer`.
    """
    with friendly_errors(debug):
        from prompttransfer.listing import print_assets, print_tasks

        with shown_progress(quiet) as progress:
            if tasks:
                print_tasks(names or (), progress)
            else:
                print_assets(names or (), progress, fetch_them=fetch)
