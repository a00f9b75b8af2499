"""The command line: compare, train, evaluate, export, assets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from prompttransfer.config import METHODS, RunConfig


def _default(name: str) -> str:
    """The default of a setting, for the help text."""
    value = RunConfig.model_fields[name].default
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


app = typer.Typer(
    name="prompttransfer",
    help="Train soft prompts on a frozen language model and compare how methods transfer them between tasks.\n\n"
    "Start with `prompttransfer compare`: without options it runs the demo on a small real model and real data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

_TASKS = "Demo names (see `prompttransfer assets --tasks`) or files; separated by commas, or repeat the option."
_FILES = "A .csv, .tsv or .jsonl file; `train.csv,test.csv` keeps the two apart."

Model = Annotated[
    str | None,
    typer.Option(
        help="demo, a hub id, or a local folder of a causal or seq2seq model.", show_default=_default("model")
    ),
]
TextColumn = Annotated[
    str | None, typer.Option(help="Column with the text in task files.", show_default=_default("text_column"))
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column with the label in task files.", show_default=_default("label_column"))
]
PromptLength = Annotated[int | None, typer.Option(help="Prompt tokens.", show_default=_default("prompt_length"))]
BatchSize = Annotated[
    int | None, typer.Option(help="Rows per update on target rows.", show_default=_default("batch_size"))
]
LearningRate = Annotated[
    float | None, typer.Option(help="Peak AdamW rate of the prompt.", show_default=_default("learning_rate"))
]
Precision = Annotated[
    str | None,
    typer.Option(
        help="auto, float32 or bfloat16: products of the frozen model; prompts stay float32.",
        show_default=_default("precision"),
    ),
]
MaxLength = Annotated[
    int | None, typer.Option(help="Text tokens kept of a row, the last ones.", show_default=_default("max_length"))
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
        list[str] | None, typer.Option(help="Tasks to transfer from. " + _TASKS, show_default=_default("sources"))
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(help="Few-shot tasks to transfer to. " + _TASKS, show_default=_default("targets")),
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    methods: Annotated[
        list[str] | None, typer.Option(help="Methods to compare.", show_default=_default("methods"))
    ] = None,
    seeds: Annotated[
        list[str] | None,
        typer.Option(help="Repetitions: few-shot rows and batch order.", show_default=_default("seeds")),
    ] = None,
    train_rows: Annotated[
        int | None, typer.Option(help="Training rows per target, in all.", show_default=_default("train_rows"))
    ] = None,
    test_rows: Annotated[
        int | None, typer.Option(help="Test rows per task.", show_default=_default("test_rows"))
    ] = None,
    source_updates: Annotated[
        int | None, typer.Option(help="Optimizer updates of a source stage.", show_default=_default("source_updates"))
    ] = None,
    target_updates: Annotated[
        int | None,
        typer.Option(
            help="Updates on target rows, the same for every method.", show_default=_default("target_updates")
        ),
    ] = None,
    prompt_length: PromptLength = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    output: Annotated[Path | None, typer.Option(help="Run folder.", show_default=_default("output"))] = None,
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
        "sources": _names(sources),
        "targets": _names(targets),
        "text_column": text_column,
        "label_column": label_column,
        "methods": _methods(methods),
        "seeds": _names(seeds),
        "train_rows": train_rows,
        "test_rows": test_rows,
        "source_updates": source_updates,
        "target_updates": target_updates,
        "prompt_length": prompt_length,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "precision": precision,
        "max_length": max_length,
        "output": output,
    }
    with _friendly(debug):
        _print_run(_run(_settings(config, options), quiet or as_json), as_json)


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="A demo task or a file. " + _FILES)],
    prompt: Annotated[Path, typer.Argument(help="Prompt file to write (.safetensors).")],
    method: Annotated[str, typer.Option(help="PT, SPoT, MPT, BMTPT or DTVG.")] = "PT",
    sources: Annotated[
        list[str] | None,
        typer.Option(help="Tasks to transfer from; PT needs none. " + _TASKS, show_default=_default("sources")),
    ] = None,
    model: Model = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    train_rows: Annotated[int, typer.Option(help="Training rows.")] = 2000,
    test_rows: Annotated[int, typer.Option(help="Test rows.")] = 200,
    updates: Annotated[int, typer.Option(help="Optimizer updates on the task's rows.")] = 100,
    seed: Annotated[int, typer.Option(help="Draw of the rows and order of the batches.")] = 42,
    prompt_length: PromptLength = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    precision: Precision = None,
    max_length: MaxLength = None,
    config: ConfigFile = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train one prompt on one task and write it to a file.

    Examples:

    `prompttransfer train amazon amazon.safetensors`

    `prompttransfer train reviews.csv reviews.safetensors --method SPoT --sources amazon,tweets --train-rows 32`

    The folder `<prompt>.run` beside the file keeps the settings, results and learning curve.
    """
    options = {
        "model": model,
        "sources": _names(sources) if method.lower() != "pt" else (),
        "targets": (task,),
        "methods": _methods([method]),
        "seeds": (seed,),
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
        "output": prompt.with_name(prompt.name + ".run"),
    }
    with _friendly(debug):
        results = _run(_settings(config, options), quiet or as_json)
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
    test_rows: Annotated[int, typer.Option(help="Test rows.")] = 200,
    precision: Precision = None,
    max_length: MaxLength = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score a trained prompt on the test rows of a task, beside the zero-shot and the majority-class score.

    Example: `prompttransfer evaluate runs/demo/prompts/PT/sst2-seed42.safetensors movies`
    """
    with _friendly(debug):
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
        with _progress(quiet or as_json) as progress:
            facts = evaluate_file(prompt, _settings(None, options), progress, model_given=model is not None)
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

    Example: `prompttransfer export amazon.safetensors amazon-adapter`
    """
    with _friendly(debug):
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
    with _friendly(debug):
        from prompttransfer.listing import print_assets, print_tasks

        with _progress(quiet) as progress:
            if tasks:
                print_tasks(names or (), progress)
            else:
                print_assets(names or (), progress, fetch_them=fetch)


def _names(values: list[str] | None) -> tuple[str, ...] | None:
    """Values of a repeated option, those with commas taken apart; "train.csv,test.csv" is one task and stays whole."""
    if values is None:
        return None
    from prompttransfer.tasks.names import is_file_name

    found: list[str] = []
    for value in values:
        parts = [part.strip() for part in value.split(",") if part.strip()]
        files = [is_file_name(part) for part in parts]
        if any(files) and not all(files):
            raise typer.BadParameter(f"{value!r} mixes files with names; repeat the option, once for each task")
        found += [value] if any(files) else parts
    return tuple(found)


def _methods(values: list[str] | None) -> tuple[str, ...] | None:
    """Method names in any case."""
    names = _names(values)
    known = {name.lower(): name for name in METHODS}
    return None if names is None else tuple(known.get(name.lower(), name) for name in names)


def _settings(file: Path | None, options: dict[str, Any]) -> RunConfig:
    """RunConfig of a JSON file and the options that were given, which win."""
    given: dict[str, Any] = {}
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"settings file {file} does not exist")
        try:
            given = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"settings file {file} is not JSON: {error}") from error
        if not isinstance(given, dict):
            raise ValueError(f"settings file {file}: got {type(given).__name__}, want an object of settings")
    return RunConfig(**{**given, **{name: value for name, value in options.items() if value is not None}})


def _run(config: RunConfig, silent: bool) -> Any:
    """Compare, write the report, and return the results."""
    with _progress(silent) as progress:
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


def _progress(silent: bool) -> Any:
    from prompttransfer.progress import NullProgress, Progress

    return NullProgress() if silent else Progress()


@contextmanager
def _friendly(debug: bool) -> Iterator[None]:
    """Errors of the user's making in a line or two; Ctrl-C says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if debug or isinstance(error, typer.Exit):
            raise
        typer.echo(f"error: {_message(error)}", err=True)
        if not _expected(error):
            typer.echo("run again with --debug for the traceback", err=True)
        raise typer.Exit(2) from None


def _message(error: Exception) -> str:
    """The error's own words; of a refused settings block, one line for each setting."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error) or type(error).__name__
    lines, items = [], errors()
    for item in items:
        if any(item["loc"] == other["loc"][: len(item["loc"])] != other["loc"] for other in items):
            continue  # a block is refused because of a part that is named in another line
        name = ".".join(map(str, item["loc"]))
        text = item["msg"].removeprefix("Value error, ")
        got = f", got {item['input']!r}" if name and not isinstance(item["input"], dict) else ""
        lines.append(f"{name}: {text}{got}" if name else text)
    return "\n".join(lines)


def _expected(error: Exception) -> bool:
    """Whether the message alone will do: all but failures deep inside a library."""
    return not isinstance(error, RuntimeError) or type(error).__module__.startswith("prompttransfer")
