"""`prompttransfer predict`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.command import command
from prompttransfer.cli.errors import FAILED
from prompttransfer.cli.setting_options import DATA, MODEL, split
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.texts import show_json, tell
from prompttransfer.settings.reading import Reading

if TYPE_CHECKING:
    from prompttransfer.interchange import Card
    from prompttransfer.serving.predict import Fields, Prediction
    from prompttransfer.serving.texts import Asked

    Answers = Callable[[Sequence[Fields]], list[Prediction]]

_ROWS_AT_ONCE = 512
_SHOWN_CHOICES = 6  # largest number of choices to show as columns of the table
_SHOWN_TEXT = 60
_REPORTED = 10  # largest number of rows whose problem is reported


def _as_trained(about: str, metavar: str | None = None, completes: str | None = None) -> Any:
    """An option that overrides the prompt file."""
    completion_of = completion.setting(completes) if completes else None
    return typer.Option(
        help=about, rich_help_panel=MODEL, show_default="as trained", metavar=metavar, autocompletion=completion_of
    )


@command(
    settings=("text_column", *Reading.model_fields, "model"),
    defaults=dict.fromkeys(Reading.model_fields, "as in the training table")
    | {"text_column": "as in the training table", "model": "the model of the prompt file"},
    prints=True,
)
def predict(
    progress: ProgressReporter,
    options: dict[str, Any],
    prompt: o.PromptFile,
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts; a JSON object for a text with several fields. Default: read standard input."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Texts, one per line (.txt), a table (.csv, .tsv, .jsonl, .parquet) with the columns of the training "
            "table, or a .yaml description, whose test rows are answered.",
        ),
    ] = None,
    template: Annotated[str | None, _as_trained("What the model reads, with fields in braces.")] = None,
    choices: Annotated[list[str] | None, _as_trained("Possible answers, separated by commas.", "A,B,...")] = None,
    scoring: Annotated[
        str | None, _as_trained("How an answer is chosen: first-token, full or generate.", completes="scoring")
    ] = None,
    join: Annotated[
        str | None,
        _as_trained("How a causal model's answer follows the text: space, none or separate.", completes="join"),
    ] = None,
    batch_size: Annotated[int, typer.Option(rich_help_panel=MODEL, min=1, help="Rows per forward pass.")] = 32,
    engine: Annotated[
        str,
        typer.Option(
            rich_help_panel=MODEL,
            metavar="transformers|vllm|URL",
            help="What runs the model: transformers, vllm (started for this command), or a running server by its URL "
            "(`vllm serve MODEL --enable-prompt-embeds`).",
        ),
    ] = "transformers",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON per text on stdout, and nothing else there.")
    ] = False,
) -> None:
    """Answer texts with a trained prompt: the label and the probability of each choice, or the generated text.

    The model, the template, the answers and the options for reading tables (encoding, delimiter, columns) come from the
    prompt file.

    Every line or row gets one answer, in the same order. A blank line gets an empty answer (JSON: null). So does a row
    that lacks a field or cannot be read; its problem is reported, and the exit code is 1.

    ```bash
    prompttransfer predict amazon.safetensors "Great sound, would buy again."
    prompttransfer predict reviews.safetensors --file new-reviews.csv --json > answers.jsonl
    cat lines.txt | prompttransfer predict reviews.safetensors
    ```
    """
    from prompttransfer.serving.predict import read_answering_prompt
    from prompttransfer.serving.texts import asked

    overrides = {
        "model": options["model"],
        "template": None if template is None else template.replace("\\n", "\n"),
        "choices": split(choices),
        "scoring": scoring,
        "join": join,
    }
    reading = {name: options[name] for name in Reading.model_fields if options[name] is not None}
    if "delimiter" in reading:
        reading["delimiter"] = reading["delimiter"].replace("\\t", "\t")
    trained, card = read_answering_prompt(prompt, **overrides)
    rows = asked(card, texts, file, text_column=options["text_column"], reading=reading, note=tell)
    parts = _parts_with_a_text(rows)  # before the model is loaded, to report problems with the texts at once
    with progress:
        source: dict[str, Any] = {"named": options["model"] is not None, "progress": progress}
        predictor = _predictor(engine, batch_size, prompt, trained, card, **source)
    counts: Counter[str] = Counter()
    answered = _answered(predictor, parts, counts)
    if as_json:
        for one, answer in answered:
            show_json({**one.fields, **_answer(one, answer)}, indent=None)
    else:
        _print_table(list(answered), card)
    if counts["problems"]:
        tell(f"{counts['problems']} of {counts['rows']} rows are not answered")
        raise typer.Exit(FAILED)


def _predictor(
    engine: str, batch_size: int, prompt: Path, trained: Any, card: Card, *, progress: ProgressReporter, **source: Any
) -> Answers:
    """Build a predictor for a prompt.

    Raises:
        ValueError: the engine is unknown; or as in `Predictor.of`, `ServedPrompt.of`, `VllmEngine` and `VllmServer`.
    """
    if engine == "transformers":
        from prompttransfer import Predictor

        return Predictor.of(prompt, trained, card, progress=progress, batch_size=batch_size, **source)
    if engine != "vllm" and "://" not in engine:
        raise ValueError(f"--engine: got {engine!r}, want transformers, vllm, or the URL of a server")
    from prompttransfer.serving.requests import ServedPrompt, answer
    from prompttransfer.serving.vllm import VllmEngine, VllmServer

    served = ServedPrompt.of(prompt, trained, card, progress=progress, **source)
    if engine == "vllm":
        progress.note("starting vLLM")
    running = VllmEngine.start(served) if engine == "vllm" else VllmServer(engine)
    return lambda rows: answer(running, [(served, rows)])[0]


def _answer(one: Asked, answer: Prediction | None) -> dict[str, Any]:
    """Answer of a row in JSON, next to its fields."""
    if answer is None:
        return {"label": None, **({"problem": one.problem} if one.problem else {})}
    scores = {choice: round(share, 6) for choice, share in answer.scores.items()}
    return {"label": answer.label, **({"scores": scores} if scores else {})}


def _parts_with_a_text(rows: Iterator[Asked]) -> Iterator[list[Asked]]:
    """Rows in parts, after checking that at least one can be answered.

    Raises:
        ValueError: no row can be answered; names the problem of the first.
    """
    parts = iter(lambda: list(islice(rows, _ROWS_AT_ONCE)), [])
    waiting: list[list[Asked]] = []
    for part in parts:
        waiting.append(part)
        if any(one.row is not None for one in part):
            return chain(waiting, parts)
    raise ValueError(next((one.problem for part in waiting for one in part if one.problem), "got no text"))


def _answered(
    predictor: Answers, parts: Iterable[list[Asked]], counts: Counter[str]
) -> Iterator[tuple[Asked, Prediction | None]]:
    """Texts with their answers (None: no answer), in order. Reports the first problems and counts all."""
    for part in parts:
        rows = [one.row for one in part if one.row is not None]
        answers = iter(predictor(rows) if rows else [])
        for one in part:
            counts["rows"] += 1
            if one.problem:
                counts["problems"] += 1
                if counts["problems"] <= _REPORTED:
                    tell(f"not answered: {one.problem}")
            yield one, next(answers) if one.row is not None else None


def _print_table(answered: list[tuple[Asked, Prediction | None]], card: Card) -> None:
    from prompttransfer.cli.tables import print_table

    scored = any(answer is not None and answer.scores for _, answer in answered)
    choices = card.choices if len(card.choices) <= _SHOWN_CHOICES else ()
    rows: list[dict[str, Any]] = []
    for one, answer in answered:
        text = " | ".join(part or "" for part in one.fields.values())
        rows.append({"text": text if len(text) <= _SHOWN_TEXT else f"{text[: _SHOWN_TEXT - 1]}…"})
        if answer is None:
            continue
        rows[-1]["label" if scored else "answer"] = answer.label
        if scored and choices:
            rows[-1] |= {f"{choice} (%)": 100 * answer.scores[choice] for choice in choices}
        elif scored:
            rows[-1]["share (%)"] = 100 * answer.scores[answer.label]
    print_table(rows, right={head for row in rows for head in row if head.endswith("(%)")})
