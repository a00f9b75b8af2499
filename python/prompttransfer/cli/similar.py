"""`prompttransfer similar`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.library import Folder
from prompttransfer.cli.support import friendly_errors
from prompttransfer.files.texts import show_json, tell

if TYPE_CHECKING:
    from prompttransfer.interchange import Card
    from prompttransfer.library import Found, Library, Match


def similar(
    prompt: Annotated[Path, typer.Argument(help="Prompt file, in the library or not.")],
    library: Folder = Path("library"),
    metric: Annotated[
        str, typer.Option(help="cosine, or token_mean_cosine (of the means over tokens, as SPoT does).")
    ] = "cosine",
    start: Annotated[
        Path | None,
        typer.Option(help="P_init that the prompt was trained from.", show_default="that of the library, by its hash"),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Show so many.")] = 10,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Which stored prompts resemble this one.

    Prompts with a common start P_init are compared by their task vectors (prompt less P_init) and come first, others
    by the prompts themselves; the table says which. Prompts of other models are left out.

    Examples:

    `prompttransfer similar amazon.safetensors`

    `prompttransfer similar runs/demo/prompts/PT/sst2-seed42.safetensors --library prompts --metric token_mean_cosine`
    """
    with friendly_errors(debug):
        from prompttransfer.interchange import Card, read_prompt
        from prompttransfer.library import Library
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
        if as_json:
            show_json([_facts(match) for match in found.matches])
        else:
            _print_table(found, stored, card)


def _facts(match: Match) -> dict[str, Any]:
    card = match.entry.card.model_dump(mode="json", exclude_defaults=True)
    return {"name": match.entry.name, "similarity": round(match.similarity, 6), "of": match.of, **card}


def _print_table(found: Found, stored: Library, card: Card) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from prompttransfer.cli.listing import wide_console

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("prompt", "similarity", "of", "task", "method", "score"):
        table.add_column(name, justify="right" if name in ("similarity", "score") else "left", no_wrap=True)
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
        + (f"; {left_out} not: itself, or of another model or size" if left_out else "")
    )
    if found.matches and found.matches[0].of == "prompts":  # task vectors would come first
        shared = stored.shares_start(card)
        way_out = "; --start names it" if shared else ""
        console.print(f"no task vectors: {'P_init is not in the library' if shared else 'no common P_init'}{way_out}")
