"""`prompttransfer import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import completion
from prompttransfer.cli import options as o
from prompttransfer.cli.support import friendly_errors, task_names
from prompttransfer.files.paths import anywhere
from prompttransfer.files.texts import show, show_json

_ANSWERS = {
    "space": "answers follow the text behind a space, such as ' yes'",
    "none": "answers follow the text directly, such as 'yes'; if the tokenizer wrote a start token before them in "
    "training: --join separate",
    "separate": "answers follow the text tokenized on their own, behind the tokenizer's start token",
}


def import_(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder of PEFT: PROMPT_TUNING or MULTITASK_PROMPT_TUNING.")],
    prompt: Annotated[Path, typer.Argument(help="Prompt file to write (.safetensors); must not exist.")],
    task: Annotated[str | None, typer.Option(help="Name of the task.", show_default="that of the file")] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub id or folder of its model.", show_default="the adapter's base model")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="What the model read, with fields in braces, such as '{text}\\nLabel:'.")
    ] = None,
    choices: Annotated[list[str] | None, typer.Option(help="The answers, separated by commas.")] = None,
    scoring: Annotated[
        str | None, typer.Option(help="first-token, full or generate (free text): how an answer is chosen.")
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.setting("join"),
            help="space, none or separate: how a causal model's answer joined the text, see the page on prompts.",
            show_default="none where the template ends with white space, else space",
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Written on the card.")] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Turn a PEFT adapter into prompt files that `evaluate`, `predict`, `similar` and `export` read.

    An adapter of several tasks becomes a file for each, `<prompt>-0.safetensors` and so on.

    Example:

    `prompttransfer import my-adapter mine.safetensors --template "{text} Sentiment:" --choices negative,positive`
    """
    with friendly_errors(debug):
        from prompttransfer.interchange import Card, import_peft, write_prompt
        from prompttransfer.settings.joins import literal_join
        from prompttransfer.tasks.templates import fields_of

        if template is not None:
            template = template.replace("\\n", "\n")
            fields_of(template)
            join = join or literal_join(template)
        given = {
            "task": task,
            "model": None if model is None else anywhere(model),
            "template": template,
            "choices": task_names(choices),
            "scoring": scoring,
            "join": join,
            "licence": licence,
        }
        given = {name: value for name, value in given.items() if value is not None}
        imported = import_peft(adapter)
        several = len(imported) > 1
        paths = [
            prompt.with_name(f"{prompt.stem}-{n}{prompt.suffix}") if several else prompt for n in range(len(imported))
        ]
        for path in paths:
            if path.exists():
                raise FileExistsError(f"{path} exists; name a new prompt file")
        written = []
        for path, one in zip(paths, imported, strict=True):
            card = Card.checked({"task": path.stem} | one.card.model_dump(exclude_defaults=True) | given, adapter)
            write_prompt(path, one.prompt, card.metadata(), one.factors)
            facts = {"prompt": str(path), "tokens": len(one.prompt), "method": card.method, "model": card.model}
            written.append(facts | ({"join": card.join} if card.join and card.architecture == "causal" else {}))
        if as_json:
            show_json(written)
            return
        for facts in written:
            owner = facts["model"] or "an unnamed model"
            show(f"prompt: {facts['prompt']} ({facts['tokens']} tokens, {facts['method']}, for {owner})")
        if any("join" in facts for facts in written):
            show(_ANSWERS[written[0]["join"]])
