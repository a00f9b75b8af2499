"""`prompttransfer compare`."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.command import Result, command
from prompttransfer.cli.running import result_of, run
from prompttransfer.cli.setting_options import SETTINGS, collect_settings
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.settings.recipes import run_config


@command(settings=(*chain(*SETTINGS.values()), "output"), resumes=True)
def compare(
    progress: ProgressReporter,
    options: dict[str, Any],
    recipe: o.Recipe = None,
    assigned: o.Assigned = None,
    limit: o.Limit = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run a small part of the demo; short for `--recipe quick`.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of worker processes, each with a GPU of its own or an equal share of the cores. On a cluster, "
            "by default one for each GPU or core.",
            show_default="1",
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="auto|ADDRESS",
            help="Run on a Ray cluster. auto: the one that RAY_ADDRESS names, else one started on this machine.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N|sources",
            help="Do part I of N, in a folder of its own; first `sources`. `prompttransfer collect` joins the parts.",
        ),
    ] = None,
) -> Result:
    """Train every method on every target with the same budget, and report the scores and what they cost.

    Without options, it runs the demo: SmolLM2-135M, three sources, three targets, four methods, three seeds. `--quick`
    takes about two minutes on 2 cores: PT and DTVG, one source, one target.

    ```bash
    prompttransfer compare
    prompttransfer compare --quick
    prompttransfer compare --targets mrpc,rte --methods PT,MPT --seeds 1,2 --output runs/pairs
    prompttransfer compare --model my/folder --sources amazon,r8 --targets reviews.csv --output runs/reviews
    prompttransfer compare --recipe papers/mpt_t5_base --limit 32
    prompttransfer compare --methods PT,MPT --variant paper --set mpt.ablation=no-distillation --output runs/mpt
    ```

    Press Ctrl-C to stop. Run the same command again to continue: finished stages are not repeated.
    """
    from prompttransfer import read_recipe

    if quick and recipe is not None:
        raise ValueError("got both --quick, which is a recipe itself, and --recipe; want one of them")
    asked = read_recipe("quick" if quick else recipe)
    config = run_config(asked, collect_settings(options, assigned), limit=limit)
    return result_of(run(config, progress, workers, cluster, shard))
