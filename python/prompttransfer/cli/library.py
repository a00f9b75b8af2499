"""`prompttransfer library`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.command import checked
from prompttransfer.cli.support import friendly_errors
from prompttransfer.files.texts import show, show_json, tell

Folder = Annotated[
    Path, typer.Option(metavar="DIR", envvar="PROMPTTRANSFER_LIBRARY", help="Folder of the prompt library.")
]

library = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Keep trained prompts in one folder.")


@library.command()
@checked
def add(
    sources: Annotated[list[Path], typer.Argument(help="Run folders (all prompts of their tables), or prompt files.")],
    library: Folder = Path("library"),
    prefix: Annotated[
        str | None, typer.Option(help="What the names start with.", show_default="the name of the run folder")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Written on the cards.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace other prompts of the same names.")] = False,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Add prompts, each with a JSON card: model, start, task, method, scores, licence, date.

    Examples:

    `prompttransfer library add runs/demo --licence Apache-2.0`

    `prompttransfer library add amazon.safetensors --library prompts`
    """
    with friendly_errors(debug):
        from prompttransfer.library import Library

        library.mkdir(parents=True, exist_ok=True)
        stored = Library(library)
        facts = {"licence": licence} if licence else {}
        names = []
        for source in sources:
            if source.is_dir():
                names += stored.add_run(source, prefix=prefix, replace=replace, **facts)
            else:
                name = "-".join(filter(None, (prefix, source.stem)))
                names.append(stored.add(source, name, replace=replace, **facts))
        total = len(Library.open(library).entries)
        if as_json:
            show_json({"added": names, "prompts": total, "library": str(library)})
        else:
            show(f"{len(names)} prompts added, {total} in {library}")


@library.command("list")
@checked
def list_prompts(library: Folder = Path("library"), as_json: o.Json = False, debug: o.Debug = False) -> None:
    """List the prompts with their cards.

    Example:

    `prompttransfer library list --library prompts`
    """
    with friendly_errors(debug):
        from rich import box
        from rich.table import Table
        from rich.text import Text

        from prompttransfer.cli.listing import wide_console
        from prompttransfer.library import Library

        stored = Library.open(library)
        for problem in stored.problems:
            tell(f"left out: {problem}")
        if as_json:
            cards = {
                name: {"shape": list(entry.shape), **entry.card.model_dump(mode="json", exclude_defaults=True)}
                for name, entry in stored.entries.items()
            }
            show_json(cards)
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for name in ("prompt", "task", "method", "score", "tokens", "model", "licence", "date"):
            table.add_column(name, justify="right" if name in ("score", "tokens") else "left", no_wrap=name == "prompt")
        for name, entry in stored.entries.items():
            card = entry.card
            score = "" if card.score is None else f"{card.score:.1f}"
            row = (name, card.task, card.method, score, str(entry.shape[0]), card.model, card.licence, card.date)
            table.add_row(*map(Text, row))
        wide_console().print(table)
