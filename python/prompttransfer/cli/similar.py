"""`prompttransfer similar`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prompttransfer.cli.command import Result, command
from prompttransfer.cli.library import Folder
from prompttransfer.files.texts import show, tell


@command(prints=True)
def similar(
    prompt: Annotated[
        Path, typer.Argument(help="Prompt file (.safetensors) or its hub ID; it need not be in the library.")
    ],
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
    others are compared directly; the table says which. Prompts of other models are left out.

    ```bash
    prompttransfer similar amazon.safetensors
    prompttransfer similar runs/demo/prompts/PT/sst2-seed42.safetensors --library prompts --metric token_mean_cosine
    ```
    """
    from prompttransfer import Library
    from prompttransfer.interchange import Card, read_prompt
    from prompttransfer.prompts import init_hash

    matrix, metadata = read_prompt(prompt)
    card = Card.of(metadata, prompt)
    reference = None if start is None else read_prompt(start)[0]
    if reference is not None and card.init_hash and init_hash(reference) != card.init_hash:
        raise ValueError(f"{start}: not the P_init from which {prompt} was trained ({card.init_hash})")
    stored = Library.open(library)
    result = stored.similar(matrix, card, metric=metric, start=reference, but=prompt, top=top)
    for problem in stored.problems:
        tell(f"left out: {problem}")
    facts = [
        {"name": match.entry.name, "similarity": round(match.similarity, 6), "of": match.of}
        | match.entry.card.model_dump(mode="json", exclude_defaults=True)
        for match in result.matches
    ]

    def display() -> None:
        left_out = len(stored.entries) - result.compared
        if facts:
            _print(facts)
        show(
            f"{result.compared} prompts compared"
            + (f", {len(facts)} shown" if result.compared > len(facts) else "")
            + (f"; {left_out} left out: the prompt itself, or another model or size" if left_out else "")
        )
        if facts and facts[0]["of"] == "prompts":  # task vectors would come first
            shared = "P_init is not in the library; give it with --start"
            show(f"no task vectors: {shared if stored.shares_start(card) else 'no common P_init'}")

    return Result(facts, display)


def _print(facts: list[dict[str, Any]]) -> None:
    from prompttransfer.cli.tables import print_table

    rows = [
        {"prompt": fact["name"], "similarity": f"{fact['similarity']:.3f}"}
        | {key: fact.get(key) for key in ("of", "task", "method", "score")}
        for fact in facts
    ]
    print_table(rows, right=("similarity", "score"), whole=("prompt",))
