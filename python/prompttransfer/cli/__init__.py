"""The command line: a file for each command."""

from __future__ import annotations

import typer

from prompttransfer.cli.assets import assets
from prompttransfer.cli.compare import compare
from prompttransfer.cli.evaluate import evaluate
from prompttransfer.cli.export import export
from prompttransfer.cli.train import train
from prompttransfer.cli.validate import validate

app = typer.Typer(
    name="prompttransfer",
    help="Train soft prompts on a frozen language model and compare how methods transfer them between tasks.\n\n"
    "Start with `prompttransfer compare`: without options it runs the demo on a small real model and real data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (compare, train, evaluate, export, validate, assets):
    app.command()(command)
