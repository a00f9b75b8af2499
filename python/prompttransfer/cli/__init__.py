"""The command line: a file for each command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli.assets import assets
from prompttransfer.cli.collect import collect
from prompttransfer.cli.compare import compare
from prompttransfer.cli.doctor import doctor
from prompttransfer.cli.errors import EXIT_CODES, friendly_errors
from prompttransfer.cli.evaluate import evaluate
from prompttransfer.cli.export import export
from prompttransfer.cli.import_ import import_
from prompttransfer.cli.library import library
from prompttransfer.cli.own_file import import_files
from prompttransfer.cli.predict import predict
from prompttransfer.cli.report import report
from prompttransfer.cli.similar import similar
from prompttransfer.cli.train import train
from prompttransfer.cli.validate import validate
from prompttransfer.distributed import processes
from prompttransfer.files.texts import show

# In the order of the help: train and compare, use the results, check and maintain the machine.
COMMANDS = (compare, collect, train, evaluate, predict, similar, report, export, import_, validate, assets, doctor)

app = typer.Typer(
    name="prompttransfer",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Exit codes: " + "; ".join(f"{code}: {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
)
for each in COMMANDS:
    summary = str(each.__doc__).partition("\n\n")[0]
    app.command(each.__name__.rstrip("_"), short_help=" ".join(summary.split()))(each)
app.add_typer(library, name="library")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        show(f"prompttransfer {version('promptkernels')}")
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    own: Annotated[
        list[Path] | None,
        typer.Option(
            "--import", metavar="FILE", callback=import_files, help="A Python file that registers a method of your own."
        ),
    ] = None,
) -> None:
    """Train soft prompts on a frozen language model and compare how methods transfer them between tasks.

    Start with `prompttransfer compare`: without options it runs the demo on a small real model and real data.
    `prompttransfer doctor` checks this machine. `prompttransfer --install-completion` sets up completion in the shell:
    of commands, options, and names of tasks, methods, models and recipes.

    Results go to standard output, progress and messages to standard error. With `--json`, standard output is JSON and
    nothing else. `--quiet` hides progress, but not warnings. Progress bars and colours are for terminals; a pipe or a
    file gets plain lines, as wide as `COLUMNS` says. `NO_COLOR=1` turns colours off. An option for several values takes
    them separated by commas. Error messages are a line or two and say what to do; `--debug` shows the traceback.
    """
    if processes.count() > 1 and context.invoked_subcommand not in ("compare", "train"):
        with friendly_errors(False):
            raise ValueError(
                f"{context.invoked_subcommand} runs in one process, got {processes.count()}; torchrun and "
                "accelerate launch are for compare and train"
            )
