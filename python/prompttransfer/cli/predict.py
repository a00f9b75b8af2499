"""`prompttransfer predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.support import friendly_errors, shown_progress, task_names
from prompttransfer.excerpt import cut
from prompttransfer.file_kinds import HEAD, check_text

if TYPE_CHECKING:
    from prompttransfer.interchange import Card
    from prompttransfer.predicting import Fields, Prediction

_ROWS_AT_ONCE = 512
_SHOWN_CHOICES = 6  # as columns of the table
_SHOWN_TEXT = 60


def predict(
    prompt: Annotated[Path, typer.Argument(help="Prompt file of `train` or `compare` (.safetensors).")],
    texts: Annotated[
        list[str] | None,
        typer.Argument(help="Texts; a JSON object where a text has several fields. From standard input if not given."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=o.DATA,
            help="A text on every line (.txt), or a table (.csv, .tsv, .jsonl, .parquet) with its columns.",
        ),
    ] = None,
    text_column: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.DATA,
            help="Column with the text.",
            show_default="as in the training table, or the field's name",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.MODEL,
            autocompletion=completion.model,
            help="demo, a hub id, or a local folder.",
            show_default="the model of the prompt file",
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.MODEL, help="What the model reads, with fields in braces.", show_default="as trained"
        ),
    ] = None,
    choices: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=o.MODEL, help="The answers, separated by commas.", show_default="as trained"),
    ] = None,
    scoring: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.MODEL,
            autocompletion=completion.setting("scoring"),
            help="first-token, full or generate.",
            show_default="as trained",
        ),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.MODEL,
            autocompletion=completion.setting("join"),
            help="space, none or separate: how a causal model's answer joins the text.",
            show_default="as trained",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(rich_help_panel=o.MODEL, min=1, help="Rows per forward.")] = 32,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for every text, and nothing else.")] = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Answer texts with a trained prompt: the label and the share of every choice, or what the model writes.

    The prompt file knows its model, how texts are worded and what the answers are.

    Examples:

    `prompttransfer predict amazon.safetensors "Great sound, would buy again."`

    `prompttransfer predict reviews.safetensors --file new-reviews.csv --json > answers.jsonl`

    `cat lines.txt | prompttransfer predict reviews.safetensors`
    """
    with friendly_errors(debug):
        from prompttransfer.predicting import Predictor, read_answering_prompt

        if texts and file:
            raise ValueError(f"got texts and --file {file}, want one of them")
        given = {
            "model": model,
            "template": None if template is None else template.replace("\\n", "\n"),
            "choices": task_names(choices),
            "scoring": scoring,
            "join": join,
        }
        _, card = read_answering_prompt(prompt, **given)
        parts = _parts(_rows(card, texts, file, text_column))
        first = next(parts, None)  # before the model is loaded: what is wrong with texts is told at once
        if first is None:
            raise ValueError("got no text")
        with shown_progress(quiet or as_json) as progress:
            predictor = Predictor.open(prompt, progress=progress, batch_size=batch_size, **given)
        answered = (
            (row, answer) for part in chain([first], parts) for row, answer in zip(part, predictor(part), strict=True)
        )
        if as_json:
            for row, answer in answered:
                typer.echo(json.dumps({**row, "label": answer.label, **_scores(answer)}, ensure_ascii=False))
        else:
            _print_table(list(answered), card)


def _scores(answer: Prediction) -> dict[str, Any]:
    return {"scores": {choice: round(share, 6) for choice, share in answer.scores.items()}} if answer.scores else {}


def _rows(card: Card, texts: list[str] | None, file: Path | None, text_column: str | None) -> Iterator[Fields]:
    """Fields of every text, one after the other."""
    from prompttransfer.tasks.templates import fields_of

    fields = fields_of(card.template)
    if text_column and len(fields) > 1:
        raise ValueError(f"--text-column names one column, but a text has the fields {', '.join(fields)}")
    if file is None or file.suffix.lower() == ".txt":
        for number, line in enumerate(texts or _lines(file), start=1):
            if not line.strip():
                raise ValueError(f"text {number} is empty; want what is to be answered")
            yield {fields[0]: line} if len(fields) == 1 else _object(line, fields, number)
        return
    from prompttransfer.tasks.cells import Misfit, pick, text_of
    from prompttransfer.tasks.tables import read_rows

    columns = {name: text_column or card.columns.get(name, name) for name in fields}
    for row in read_rows(file, tuple(columns.values())):
        if row.problem:
            raise ValueError(f"{row.place}: {row.problem}")
        try:
            yield {name: text_of(pick(row.cells, column)) for name, column in columns.items()}
        except Misfit as error:
            raise ValueError(f"{row.place}: {error}") from None


def _lines(file: Path | None) -> Iterator[str]:
    if file is None and sys.stdin.isatty():
        typer.echo("reading texts from the keyboard, one on a line; Ctrl-D ends them", err=True)
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    if file is not None:
        with file.open("rb") as raw:
            check_text(raw.read(HEAD), file)
    try:
        with file.open(encoding="utf-8-sig") if file else sys.stdin as source:
            yield from (line.rstrip("\n") for line in source if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"{file or 'standard input'}: not UTF-8 ({error.reason} at byte {error.start})") from error


def _object(line: str, fields: tuple[str, ...], number: int) -> Mapping[str, str]:
    wanted = json.dumps(dict.fromkeys(fields, "…"), ensure_ascii=False)
    try:
        row = json.loads(line)
    except ValueError:
        raise ValueError(f"text {number}: a text has several fields; want a JSON object such as {wanted}") from None
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in fields):
        raise ValueError(f"text {number}: got {cut(line)}, want {wanted}")
    return {name: row[name] for name in fields}


def _parts(rows: Iterator[Fields]) -> Iterator[list[Fields]]:
    while part := list(islice(rows, _ROWS_AT_ONCE)):
        yield part


def _print_table(answered: list[tuple[Fields, Prediction]], card: Card) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from prompttransfer.listing import wide_console

    shown = card.choices if answered[0][1].scores else ()
    shown = shown if len(shown) <= _SHOWN_CHOICES else ()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("text")
    table.add_column("label" if answered[0][1].scores else "answer", style="bold")
    for choice in shown or (("share (%)",) if answered[0][1].scores else ()):
        table.add_column(f"{choice} (%)" if shown else choice, justify="right")
    for row, answer in answered:
        text = " | ".join(row.values())
        text = text if len(text) <= _SHOWN_TEXT else f"{text[: _SHOWN_TEXT - 1]}…"
        shares = [answer.scores[choice] for choice in shown or ((answer.label,) if answer.scores else ())]
        table.add_row(*map(Text, (text, answer.label, *(f"{100 * share:.1f}" for share in shares))))
    wide_console().print(table)
