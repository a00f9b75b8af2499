"""`prompttransfer compare`."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.command import Result, command
from prompttransfer.cli.given import SETTINGS, given_settings
from prompttransfer.cli.running import result_of, run
from prompttransfer.files.progress import NullProgress
from prompttransfer.settings.recipes import run_config


@command(settings=(*chain(*SETTINGS.values()), "output"), resumes=True)
def compare(
    progress: NullProgress,
    options: dict[str, Any],
    recipe: o.Recipe = None,
    assigned: o.Assigned = None,
    limit: o.Limit = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run a small part of the demo; short for `--recipe quick`.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(min=1, help="Number of worker processes on this machine; each uses its own GPU if there is one."),
    ] = 1,
) -> Result:
    """Train every method on every target with the same budget, and report the scores and what they cost.

    Examples:

    `prompttransfer compare`  (the demo: SmolLM2-135M, three sources, three targets, four methods, three seeds)

    `prompttransfer compare --quick`  (PT and DTVG, one source, one target: about two minutes on 2 cores)

    `prompttransfer compare --targets mrpc,rte --methods PT,MPT --seeds 1,2 --output runs/pairs`

    `prompttransfer compare --model my/folder --sources amazon,r8 --targets reviews.csv --output runs/reviews`

    `prompttransfer compare --recipe papers/mpt_t5_base --limit 32`

    `prompttransfer compare --methods PT,MPT --variant paper --set mpt.ablation=no-distillation --output runs/mpt`

    Press Ctrl-C to stop. Run the same command again to continue: finished stages are not repeated. To share the work,
    start the same command in several shells, or on several machines that share the run folder.
    """
    from prompttransfer import read_recipe

    if quick and recipe is not None:
        raise ValueError("--quick is a recipe of its own; want it or --recipe, got both")
    asked = read_recipe("quick" if quick else recipe)
    return result_of(run(run_config(asked, given_settings(options, assigned), limit=limit), progress, workers))
