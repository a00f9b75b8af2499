"""The command line: compare, train, evaluate, export, assets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from prompttransfer.cli_support import (
    default_of,
    file_settings,
    friendly_errors,
    method_names,
    settings_of,
    shown_progress,
    task_names,
    train_settings,
)
from prompttransfer.config import METHODS, RunConfig

app = typer.Typer(
    name="prompttransfer",
    help="Train soft prompts on a frozen language model and compare how methods transfer them between tasks.\n\n"
    "Start with `prompttransfer compare`: without options it runs the demo on a small real model and real data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

_TASKS = "Demo names (see `prompttransfer assets --tasks`) or files, separated by commas."
_FILES = "A .csv, .tsv or .jsonl file; `train.csv:test.csv` keeps the two apart."

Model = Annotated[
    str | None,
    typer.Option(
        help="demo, a hub id, or a local folder of a causal or seq2seq model.", show_default=default_of("model")
    ),
]
TextColumn = Annotated[
    str | None, typer.Option(help="Column with the text in task files.", show_default=default_of("text_column"))
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column with the label in task files.", show_default=default_of("label_column"))
]
PromptLength = Annotated[int | None, typer.Option(help="Prompt tokens.", show_default=default_of("prompt_length"))]
BatchSize = Annotated[
    int | None, typer.Option(help="Rows per update on target rows.", show_default=default_of("batch_size"))
]
LearningRate = Annotated[
    float | None, typer.Option(help="Peak AdamW rate of the prompt.", show_default=default_of("learning_rate"))
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="auto, float32 or bfloat16: products of the frozen model; prompts stay float32.",
        show_default=default_of("precision"),
    ),
]
MaxLength = Annotated[
    int | None, typer.Option(help="Text tokens kept of a row, the last ones.", show_default=default_of("max_length"))
]
Variant = Annotated[
    str | None,
    typer.Option(
        help="paper or code: which to follow where a method's published code differs from its paper.",
        show_default="each method's own",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option(help="JSON file of settings, such as config.json of a run; options go before it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def compare(
    model: Model = None,
    sources: Annotated[
        list[str] | None, typer.Option(help="Tasks to transfer from. " + _TASKS, show_default=default_of("sources"))
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(help="Few-shot tasks to transfer to. " + _TASKS, show_default=default_of("targets")),
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    methods: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(METHODS)}.", show_default=default_of("methods"))
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(help="Repetitions: few-shot rows and batch order.", show_default=default_of("seeds")),
    ] = None,
    train_rows: Annotated[
        int | None, typer.Option(help="Training rows per target, in all.", show_default=default_of("train_rows"))
    ] = None,
    test_rows: Annotated[
        int | None, typer.Option(help="Test rows per task.", show_default=default_of("test_rows"))
    ] = None,
    source_updates: Annotated[
        int | None, typer.Option(help="Optimizer updates of a source stage.", show_default=default_of("source_updates"))
    ] = None,
    target_updates: Annotated[
        int | None,
        typer.Option(
            help="Updates on target rows, the same for every method.", show_default=default_of("target_updates")
        ),
    ] = None,
    prompt_length: PromptLength = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    variant: Variant = None,
    output: Annotated[Path | None, typer.Option(help="Run folder.", show_default=default_of("output"))] = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train every method on every target at the same budget, and report the scores with what they cost.

    Examples:

    `prompttransfer compare`  (the demo: SmolLM2-135M, three sources, three targets, five methods)

    `prompttransfer compare --targets mrpc,rte --methods PT,MPT --seeds 1,2,3 --output runs/pairs`

    `prompttransfer compare --model my/folder --sources amazon,r8 --targets reviews.csv --label-column stars`

    Stopped with Ctrl-C, the same command goes on where it was; finished stages are never repeated.
    """
    options = {
        "model": model,
        "sources": task_names(sources),
        "targets": task_names(targets),
        "text_column": text_column,
        "label_column": label_column,
        "methods": method_names(methods),
        "seeds": task_names(seeds),
        "train_rows": train_rows,
        "test_rows": test_rows,
        "source_updates": source_updates,
        "target_updates": target_updates,
        "prompt_length": prompt_length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "max_length": max_length,
        "variant": variant,
        "output": output,
    }
    with friendly_errors(debug):
        _print_run(_run(settings_of(file_settings(config), options), quiet or as_json), as_json)


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="A demo task or a file. " + _FILES)],
    prompt: Annotated[Path, typer.Argument(help="Prompt file to write (.safetensors).")],
    method: Annotated[str | None, typer.Option(help=f"One of {', '.join(METHODS)}.", show_default="PT")] = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(help="Tasks to transfer from; PT needs none. " + _TASKS, show_default=default_of("sources")),
    ] = None,
    model: Model = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    train_rows: Annotated[int | None, typer.Option(help="Training rows.", show_default="2000")] = None,
    test_rows: Annotated[int | None, typer.Option(help="Test rows.", show_default="200")] = None,
    updates: Annotated[
        int | None, typer.Option(help="Optimizer updates on the task's rows.", show_default="100")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Draw of the rows and order of the batches.", show_default="42")
    ] = None,
    prompt_length: PromptLength = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    variant: Variant = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train one prompt on one task and write it to a file.

    Examples:

    `prompttransfer train amazon amazon.safetensors`

    `prompttransfer train reviews.csv reviews.safetensors --method SPoT --sources amazon,tweets --train-rows 32`

    `prompttransfer train train.csv:test.csv reviews.safetensors --text-column review --label-column stars`

    The folder `<prompt>.run` beside the file keeps the settings, results and learning curve.
    """
    options = {
        "model": model,
        "sources": task_names(sources),
        "targets": (task,),
        "methods": None if method is None else method_names([method]),
        "seeds": None if seed is None else (seed,),
        "text_column": text_column,
        "label_column": label_column,
        "train_rows": train_rows,
        "test_rows": test_rows,
        "target_updates": updates,
        "prompt_length": prompt_length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "max_length": max_length,
        "variant": variant,
        "output": prompt.with_name(prompt.name + ".run"),
    }
    with friendly_errors(debug):
        results = _run(train_settings(file_settings(config), options), quiet or as_json)
        from prompttransfer.export import read_prompt, write_prompt

        write_prompt(prompt, *read_prompt(results.folder / results.rows[0]["prompt"]))
        _print_run(results, as_json)
        if not as_json:
            typer.echo(f"prompt: {prompt}")


@app.command()
def evaluate(
    prompt: Annotated[Path, typer.Argument(help="Prompt file of `train` or `compare` (.safetensors).")],
    task: Annotated[str, typer.Argument(help="A demo task or a file. " + _FILES)],
    model: Annotated[
        str | None, typer.Option(help="demo, a hub id, or a local folder.", show_default="the model of the prompt file")
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    test_rows: Annotated[
        int | None, typer.Option(help="At most so many rows.", show_default="all of a file, 200 of a demo task")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="auto, float32 or bfloat16.", show_default=f"as trained, or {default_of('precision')}"),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            help="Text tokens kept of a row, the last ones.", show_default=f"as trained, or {default_of('max_length')}"
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a trained prompt on a task, beside the zero-shot and the majority-class score.

    Of a demo task or a `train.csv:test.csv` pair, test rows are scored; of a single file, all rows.

    Examples:

    `prompttransfer evaluate runs/demo/prompts/PT/sst2-seed42.safetensors movies`

    `prompttransfer evaluate reviews.safetensors new-reviews.csv`
    """
    with friendly_errors(debug):
        from prompttransfer.evaluating import evaluate_file

        # The settings check the options as they do for a run; sources and methods play no part here.
        options = {
            "targets": (task,),
            "sources": (),
            "methods": ("PT",),
            "model": model,
            "text_column": text_column,
            "label_column": label_column,
            "test_rows": test_rows,
            "precision": precision,
            "max_length": max_length,
        }
        with shown_progress(quiet or as_json) as progress:
            given = {name for name, value in options.items() if value is not None}
            facts = evaluate_file(prompt, settings_of({}, options), progress, given=given)
        if as_json:
            typer.echo(json.dumps(facts, indent=1))
            return
        width = max(map(len, facts))
        for name, value in facts.items():
            typer.echo(f"{name.replace('_', ' '):<{width}}  {f'{value:.1f}' if isinstance(value, float) else value}")


@app.command()
def export(
    prompt: Annotated[Path, typer.Argument(help="Prompt file of `train` or `compare` (.safetensors).")],
    folder: Annotated[Path, typer.Argument(help="Adapter folder to write; it must not exist.")],
    model: Annotated[
        str | None,
        typer.Option(help="Hub id or folder recorded as the base model.", show_default="the model of the prompt file"),
    ] = None,
    seq2seq: Annotated[bool, typer.Option("--seq2seq", help="The model is an encoder-decoder.")] = False,
    debug: Debug = False,
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


@app.command()
def assets(
    names: Annotated[list[str] | None, typer.Argument(help="Assets; all if not given.")] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download what is not in the cache yet.")] = False,
    tasks: Annotated[
        bool, typer.Option("--tasks", help="Show the demo tasks: rows, labels, an example; fetches their data.")
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """List the demo's model and data: size, licence, whether they are in the cache.

    `prompttransfer assets --fetch` gets them all (290 MB), for a machine that goes off line afterwards. They lie in
    `$PROMPTTRANSFER_CACHE` or `~/.cache/prompttransfer`.
    """
    with friendly_errors(debug):
        from prompttransfer.listing import print_assets, print_tasks

        with shown_progress(quiet) as progress:
            if tasks:
                print_tasks(names or (), progress)
            else:
                print_assets(names or (), progress, fetch_them=fetch)


def _run(config: RunConfig, silent: bool) -> Any:
    """Compare, write the report, and return the results."""
    with shown_progress(silent) as progress:
        progress.note("loading libraries")
        from prompttransfer.compare import compare as run_comparison
        from prompttransfer.report import read_results, write_report
        from prompttransfer.tasks import check_name

        for name in (*config.sources, *config.targets):  # before the model is fetched and loaded
            check_name(name)
        folder = run_comparison(config, progress)
        write_report(folder)
    return read_results(folder)


def _print_run(results: Any, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(results.content, indent=1))
        return
    from rich.console import Console

    from prompttransfer.report.terminal import print_results

    # A pipe or a log has no width of its own; 80 columns would cut the table.
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 140)
    print_results(results, console)
    typer.echo(f"report: {results.folder / 'report.html'}\nall files: {results.folder}")
