"""`prompttransfer export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from prompttransfer.cli.command import Result, command
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.texts import show


@command()
def export(
    progress: ProgressReporter,
    prompts: Annotated[
        list[Path],
        typer.Argument(help="Prompt files (.safetensors) written by `train` or `compare`, or hub IDs of prompts."),
    ],
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must not exist.")],
    model: Annotated[
        str | None,
        typer.Option(help="Hub ID or folder to record as the base model.", show_default="the model of the prompt file"),
    ] = None,
    seq2seq: Annotated[
        bool | None,
        typer.Option("--seq2seq/--causal", help="Type of the model.", show_default="as the prompt file says"),
    ] = None,
    multitask: Annotated[
        bool, typer.Option("--multitask", help="Keep the factors of an MPT prompt (trained with transfer_from: all).")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="USER/NAME",
            help="Add the prompt file and a model card, and upload the folder to this repository of the model hub. "
            "Without this option nothing is sent.",
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="With --push: make a new repository private.")] = False,
    licence: Annotated[
        str | None,
        typer.Option(
            help="With --push: licence of the prompt as the hub spells it, such as apache-2.0.",
            show_default="that of the prompt file",
        ),
    ] = None,
) -> Result:
    """Write a prompt as a PEFT adapter, which `PeftModel.from_pretrained(model, folder)` loads.

    Several prompts that MPT-group trained together become one adapter with one task per file, in the given order.

    ```bash
    prompttransfer export amazon.safetensors amazon-adapter
    prompttransfer export --multitask runs/mpt/prompts/MPT/sst2-seed42.safetensors sst2-adapter
    prompttransfer export reviews.safetensors reviews-hub --push user/reviews --licence apache-2.0
    ```
    """
    from prompttransfer.files.assets import demo_model
    from prompttransfer.interchange import export_files, push_prompt, read_card

    if push is not None:
        if len(prompts) > 1:
            raise ValueError(f"--push: got {len(prompts)} prompts, want one: a repository holds one prompt")
        with progress:
            pushed = push_prompt(
                prompts[0],
                push,
                folder,
                base_model=model,
                seq2seq=seq2seq,
                multitask=multitask,
                licence=licence,
                private=private,
            )
        facts = {"folder": str(folder), "url": pushed.url, "revision": pushed.revision}
        return Result(facts, lambda: show(f"pushed: {pushed.url} (revision {pushed.revision}), from {folder}"))
    if private or licence is not None:
        raise ValueError(f"--{'private' if private else 'licence'}: got it without --push")
    with progress:
        if (model or read_card(prompts[0]).model) == "demo":
            model = str(demo_model(progress))
        export_files(prompts, folder, base_model=model, seq2seq=seq2seq, multitask=multitask)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    named = ("peft_type", "base_model_name_or_path", "num_tasks", "num_virtual_tokens")
    facts = {"adapter": str(folder), **{name: config[name] for name in named if name in config}}
    return Result(facts, lambda: _print(folder, config))


def _print(folder: Path, config: dict[str, Any]) -> None:
    show(f"adapter: {folder} ({config['peft_type']}, base model {config['base_model_name_or_path']})")
    if config["peft_type"] == "MULTITASK_PROMPT_TUNING":
        tasks = config["num_tasks"]
        show(f"calls need task_ids: {'0' if tasks == 1 else f'0 to {tasks - 1}, in the order of the files'}")
    if config["num_transformer_submodules"] == 2:
        show("half of the prompt goes before the decoder's input; PEFT's generate leaves that half out")
