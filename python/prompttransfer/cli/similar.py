"""`prompttransfer similar`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prompttransfer.cli.command import Result, command
from prompttransfer.cli.library import Folder
from prompttransfer.files.texts import tell

if TYPE_CHECKING:
    from prompttransfer.interchange import Card
    from prompttransfer.library import Found, Library, Match


@command(prints=True)
def similar(
    prompt: Annotated[Path, typer.Argument(help="Prompt file (.safetensors); it need not be in the library.")],
    library: Folder = Path("library"),
    metric: Annotated[
        str,
        typer.Option(help="cosine (of all prompt tokens), or token_mean_cosine (of their mean, as in SPoT)."),
    ] = "cosine",
    start: Annotated[
        Path | None,
        typer.Option(
            help="File with the P_init that the prompt was trained from.",
            show_default="found in the library by its hash",
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of prompts to show.")] = 10,
) -> Result:
    """Find the prompts of a library that are most similar to a prompt.

    Prompts trained from the same P_init are compared by their task vectors (prompt minus P_init) and come first. The
    others are compared by the prompts themselves; the table says which. Prompts of other models are left out.

    Examples:

    `prompttransfer similar amazon.safetensors`

    `prompttransfer similar runs/demo/prompts/PT/sst2-seed42.safetensors --library prompts --metric token_mean_cosine`
    """
    from prompttransfer import Library
    from prompttransfer.interchange import Card, read_prompt
    from prompttransfer.prompts import init_hash

    matrix, metadata = read_prompt(prompt)
    card = Card.of(metadata, prompt)
    reference = None if start is None else read_prompt(start)[0]
    if reference is not None and card.init_hash and init_hash(reference) != card.init_hash:
        raise ValueError(f"{start}: not the P_init that {prompt} was trained from ({card.init_hash})")
    stored = Library.open(library)
    found = stored.similar(matrix, card, metric=metric, start=reference, but=prompt, top=top)
    for problem in stored.problems:
        tell(f"left out: {problem}")
    return Result([_facts(match) for match in found.matches], lambda: _print(found, stored, card))


def _facts(match: Match) -> dict[str, Any]:
    card = match.entry.card.model_dump(mode="json", exclude_defaults=True)
    return {"name": match.entry.name, "similarity": round(match.similarity, 6), "of": match.of, **card}


def _print(found: Found, stored: Library, card: Card) -> None:
    from rich.text import Text

    from prompttransfer.cli.tables import plain_table, wide_console

    heads = ("prompt", "similarity", "of", "task", "method", "score")
    table = plain_table(*heads, right=("similarity", "score"))
    for match in found.matches:
        own = match.entry.card
        score = "" if own.score is None else f"{own.score:.1f}"
        table.add_row(*map(Text, (match.entry.name, f"{match.similarity:.3f}", match.of, own.task, own.method, score)))
    console = wide_console()
    if found.matches:
        console.print(table)
    left_out = len(stored.entries) - found.compared
    console.print(
        f"{found.compared} prompts compared"
        + (f", {len(found.matches)} shown" if found.compared > len(found.matches) else "")
        + (f"; {left_out} left out: the prompt itself, or another model or size" if left_out else "")
    )
    if found.matches and found.matches[0].of == "prompts":  # task vectors would come first
        shared = stored.shares_start(card)
        way_out = "; give it with --start" if shared else ""
        console.print(f"no task vectors: {'P_init is not in the library' if shared else 'no common P_init'}{way_out}")
