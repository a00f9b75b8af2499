"""`prompttransfer library`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli.command import Result, command
from prompttransfer.files.texts import show, tell

Folder = Annotated[
    Path, typer.Option(metavar="DIR", envvar="PROMPTTRANSFER_LIBRARY", help="Folder of the prompt library.")
]

library = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Keep trained prompts in one folder.")


@library.command()
@command()
def add(
    sources: Annotated[
        list[Path],
        typer.Argument(help="Prompt files or their hub IDs, or run folders, of which all prompts are added."),
    ],
    library: Folder = Path("library"),
    prefix: Annotated[
        str | None, typer.Option(help="Prefix of the names.", show_default="the name of the run folder")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence to write on the cards.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace prompts that have the same names.")] = False,
) -> Result:
    """Add prompts, each with its JSON card.

    A card names model, start, task, method, scores, licence and date.

    ```bash
    prompttransfer library add runs/demo --licence Apache-2.0
    prompttransfer library add amazon.safetensors --library prompts
    ```
    """
    from prompttransfer import Library

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
    total = len(stored.entries)
    return Result(
        {"added": names, "prompts": total, "library": str(library)},
        lambda: show(f"{len(names)} prompts added, {total} in {library}"),
    )


@library.command("list")
@command()
def list_prompts(library: Folder = Path("library")) -> Result:
    """List the prompts with their cards.

    ```bash
    prompttransfer library list --library prompts
    ```
    """
    from prompttransfer import Library

    stored = Library.open(library)
    for problem in stored.problems:
        tell(f"left out: {problem}")

    cards = {
        name: {"shape": list(entry.shape), **entry.card.model_dump(mode="json", exclude_defaults=True)}
        for name, entry in stored.entries.items()
    }

    def display() -> None:
        from prompttransfer.cli.tables import print_table

        shown = ("task", "method", "score", "model", "licence", "date")
        rows = [
            {"prompt": name, "tokens": card["shape"][0]} | {key: card.get(key) for key in shown}
            for name, card in cards.items()
        ]
        print_table(rows, right=("tokens", "score"), whole=("prompt",))

    return Result(cards, display)
