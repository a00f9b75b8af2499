"""`prompttransfer predict`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.errors import FAILED
from prompttransfer.cli.support import friendly_errors, shown_progress, task_names
from prompttransfer.files.texts import show_json, tell

if TYPE_CHECKING:
    from prompttransfer.interchange import Card
    from prompttransfer.serving.predict import Prediction, Predictor
    from prompttransfer.serving.texts import Asked

_ROWS_AT_ONCE = 512
_SHOWN_CHOICES = 6  # as columns of the table
_SHOWN_TEXT = 60
_TOLD = 10  # problems of single rows


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
            help="A text on every line (.txt), a table (.csv, .tsv, .jsonl, .parquet) written as the one that the "
            "prompt was trained on, or a .yaml description of tables, of which the test rows are answered.",
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
    encoding: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.DATA,
            help="Of a text file or standard input, such as cp1252.",
            show_default="UTF-8, or as the training table",
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.DATA,
            help=r"Between the fields of a .csv or .tsv file; \t is a tab.",
            show_default="as in the training table",
        ),
    ] = None,
    heading: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.DATA,
            metavar="NAMES",
            help="Columns of a .csv or .tsv file whose first line is a row, separated by commas; '' where the first "
            "line names them.",
            show_default="as in the training table",
        ),
    ] = None,
    quotes: Annotated[
        bool | None,
        typer.Option(
            "--quotes/--no-quotes",
            rich_help_panel=o.DATA,
            help="Whether quotation marks enclose fields of a .csv or .tsv file.",
            show_default="as in the training table",
        ),
    ] = None,
    escape: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=o.DATA,
            help="Character of a .csv or .tsv file before a quotation mark that is text, such as a backslash.",
            show_default="as in the training table",
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

    The prompt file knows its model, how texts are worded, what the answers are, and how the table it was trained on was
    read: encoding, delimiter, columns.

    Every line and every row has its answer in its place. A blank line gets an empty one (JSON: null). So does a row
    that lacks a field or cannot be read; its problem is told, and the exit code is 1.

    Examples:

    `prompttransfer predict amazon.safetensors "Great sound, would buy again."`

    `prompttransfer predict reviews.safetensors --file new-reviews.csv --json > answers.jsonl`

    `cat lines.txt | prompttransfer predict reviews.safetensors`
    """
    with friendly_errors(debug):
        from prompttransfer.serving.predict import Predictor, read_answering_prompt
        from prompttransfer.serving.texts import asked

        given = {
            "model": model,
            "template": None if template is None else template.replace("\\n", "\n"),
            "choices": task_names(choices),
            "scoring": scoring,
            "join": join,
        }
        reading = {
            "encoding": encoding,
            "delimiter": None if delimiter is None else delimiter.replace("\\t", "\t"),
            "heading": task_names(None if heading is None else [heading]),
            "quotes": quotes,
            "escape": escape,
        }
        trained, card = read_answering_prompt(prompt, **given)
        reading = {name: value for name, value in reading.items() if value is not None}
        rows = asked(card, texts, file, text_column=text_column, reading=reading, note=tell)
        parts = _parts_with_a_text(rows)  # before the model is loaded: what is wrong with texts is told at once
        with shown_progress(quiet or as_json) as progress:
            predictor = Predictor.of(
                prompt, trained, card, named=model is not None, progress=progress, batch_size=batch_size
            )
        answered = (pair for part in parts for pair in _answered(predictor, part))
        problems = _Problems()
        if as_json:
            for one, answer in problems.noted(answered):
                show_json({**one.fields, **_answer(one, answer)}, indent=None)
        else:
            _print_table(list(problems.noted(answered)), card)
        problems.end()


def _answer(one: Asked, answer: Prediction | None) -> dict[str, Any]:
    """Beside the fields in JSON."""
    if answer is None:
        return {"label": None, **({"problem": one.problem} if one.problem else {})}
    scores = {choice: round(share, 6) for choice, share in answer.scores.items()}
    return {"label": answer.label, **({"scores": scores} if scores else {})}


def _parts_with_a_text(rows: Iterator[Asked]) -> Iterator[list[Asked]]:
    """Rows in parts, once there is one that can be answered.

    Raises:
        ValueError: there is none; says what is wrong with the first one.
    """
    parts = iter(lambda: list(islice(rows, _ROWS_AT_ONCE)), [])
    waiting: list[list[Asked]] = []
    for part in parts:
        waiting.append(part)
        if any(one.row is not None for one in part):
            return chain(waiting, parts)
    raise ValueError(next((one.problem for part in waiting for one in part if one.problem), "got no text"))


def _answered(predictor: Predictor, part: list[Asked]) -> Iterator[tuple[Asked, Prediction | None]]:
    """Texts with their answers, in their order; None: no answer."""
    rows = [one.row for one in part if one.row is not None]
    answers = iter(predictor(rows) if rows else [])
    for one in part:
        yield one, next(answers) if one.row is not None else None


class _Problems:
    """Rows that cannot be answered: the first few are told, all are counted."""

    def __init__(self) -> None:
        self._bad, self._all = 0, 0

    def noted(self, answered: Iterable[tuple[Asked, Prediction | None]]) -> Iterator[tuple[Asked, Prediction | None]]:
        for one, answer in answered:
            self._all += 1
            if one.problem:
                self._bad += 1
                if self._bad <= _TOLD:
                    tell(f"not answered: {one.problem}")
            yield one, answer

    def end(self) -> None:
        """Tell how many there were, if any, and fail."""
        if self._bad:
            tell(f"{self._bad} of {self._all} rows are not answered")
            raise typer.Exit(FAILED)


def _print_table(answered: list[tuple[Asked, Prediction | None]], card: Card) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from prompttransfer.cli.listing import wide_console

    scored = any(answer is not None and answer.scores for _, answer in answered)
    shown = card.choices if scored and len(card.choices) <= _SHOWN_CHOICES else ()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("text")
    table.add_column("label" if scored else "answer", style="bold")
    for choice in shown or (("share (%)",) if scored else ()):
        table.add_column(f"{choice} (%)" if shown else choice, justify="right")
    for one, answer in answered:
        text = " | ".join(part or "" for part in one.fields.values())
        text = text if len(text) <= _SHOWN_TEXT else f"{text[: _SHOWN_TEXT - 1]}…"
        if answer is None:
            table.add_row(Text(text))
            continue
        shares = [answer.scores[choice] for choice in shown or ((answer.label,) if scored else ())]
        table.add_row(*map(Text, (text, answer.label, *(f"{100 * share:.1f}" for share in shares))))
    wide_console().print(table)
