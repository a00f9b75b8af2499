"""`prompttransfer export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.support import friendly_errors


def export(
    prompt: Annotated[Path, typer.Argument(help="Prompt file of `train` or `compare` (.safetensors).")],
    folder: Annotated[Path, typer.Argument(help="Adapter folder to write; it must not exist.")],
    model: Annotated[
        str | None,
        typer.Option(help="Hub id or folder recorded as the base model.", show_default="the model of the prompt file"),
    ] = None,
    seq2seq: Annotated[bool, typer.Option("--seq2seq", help="The model is an encoder-decoder.")] = False,
    debug: o.Debug = False,
) -> None:
    """Write a prompt as a PEFT adapter, which `PeftModel.from_pretrained(model, folder)` loads.

    Example:

    `prompttransfer export amazon.safetensors amazon-adapter`
    """
    with friendly_errors(debug):
        from prompttransfer.export import export_peft, read_prompt

        tensor, metadata = read_prompt(prompt)
        export_peft(tensor, folder, base_model=model or metadata.get("model", ""), seq2seq=seq2seq)
        typer.echo(f"adapter: {folder}")
