"""`prompttransfer import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prompttransfer.cli import completion
from prompttransfer.cli.command import Result, command
from prompttransfer.cli.setting_options import split
from prompttransfer.files.paths import anywhere
from prompttransfer.files.texts import show

_ANSWERS = {
    "space": "answers follow the text after a space, such as ' yes'",
    "none": "answers follow the text directly, such as 'yes'; if the tokenizer wrote a start token before them in "
    "training: --join separate",
    "separate": "answers follow the text, tokenized on their own after the tokenizer's start token",
}


@command()
def import_(
    adapter: Annotated[
        Path,
        typer.Argument(help="PEFT adapter folder, or the hub ID of one: PROMPT_TUNING or MULTITASK_PROMPT_TUNING."),
    ],
    prompt: Annotated[Path, typer.Argument(help="Prompt file to write (.safetensors); it must not exist.")],
    task: Annotated[str | None, typer.Option(help="Name of the task.", show_default="that of the prompt file")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Hub ID or folder of the model it was trained on.", show_default="the adapter's base model"),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(help="What the model read in training, with fields in braces, such as '{text}\\nLabel:'."),
    ] = None,
    choices: Annotated[
        list[str] | None, typer.Option(metavar="A,B,...", help="Possible answers, separated by commas.")
    ] = None,
    scoring: Annotated[
        str | None,
        typer.Option(help="How an answer is chosen: first-token, full or generate (free text)."),
    ] = None,
    join: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion.setting("join"),
            help="How a causal model's answer followed the text: space, none or separate.",
            show_default="none if the template ends with white space, else space",
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence to write on the card.")] = None,
) -> Result:
    """Turn a PEFT adapter into prompt files that `evaluate`, `predict`, `similar` and `export` read.

    An adapter for several tasks becomes one file per task: `<prompt>-0.safetensors` and so on.

    ```bash
    prompttransfer import my-adapter mine.safetensors --template "{text} Sentiment:" --choices negative,positive
    ```
    """
    from prompttransfer.interchange import Card, import_peft, write_prompt
    from prompttransfer.settings.joins import literal_join
    from prompttransfer.tasks.templates import fields_of

    if template is not None:
        template = template.replace("\\n", "\n")
        fields_of(template)
        join = join or literal_join(template)
    options = {
        "task": task,
        "model": None if model is None else anywhere(model),
        "template": template,
        "choices": split(choices),
        "scoring": scoring,
        "join": join,
        "licence": licence,
    }
    options = {name: value for name, value in options.items() if value is not None}
    imported = import_peft(adapter)
    several = len(imported) > 1
    paths = [prompt.with_name(f"{prompt.stem}-{n}{prompt.suffix}") if several else prompt for n in range(len(imported))]
    for path in paths:
        if path.exists():
            raise FileExistsError(f"{path} exists; choose a new prompt file")
    written = []
    for path, one in zip(paths, imported, strict=True):
        card = Card.checked({"task": path.stem} | one.card.model_dump(exclude_defaults=True) | options, adapter)
        write_prompt(path, one.prompt, card.metadata(), one.factors)
        facts = {"prompt": str(path), "tokens": len(one.prompt), "method": card.method, "model": card.model}
        written.append(facts | ({"join": card.join} if card.join and card.architecture == "causal" else {}))
    return Result(written, lambda: _print(written))


def _print(written: list[dict[str, Any]]) -> None:
    for facts in written:
        owner = facts["model"] or "an unnamed model"
        show(f"prompt: {facts['prompt']} ({facts['tokens']} tokens, {facts['method']}, for {owner})")
    if any("join" in facts for facts in written):
        show(_ANSWERS[written[0]["join"]])
