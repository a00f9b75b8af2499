"""`prompttransfer export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from prompttransfer.cli import options as o
from prompttransfer.cli.support import friendly_errors, shown_progress
from prompttransfer.files.texts import show, show_json


def export(
    prompts: Annotated[list[Path], typer.Argument(help="Prompt file of `train` or `compare` (.safetensors).")],
    folder: Annotated[Path, typer.Argument(help="Adapter folder to write; it must not exist.")],
    model: Annotated[
        str | None,
        typer.Option(help="Hub id or folder recorded as the base model.", show_default="the model of the prompt file"),
    ] = None,
    seq2seq: Annotated[
        bool | None,
        typer.Option("--seq2seq/--causal", help="What kind of model it is.", show_default="as the prompt file says"),
    ] = None,
    multitask: Annotated[
        bool, typer.Option("--multitask", help="Keep the factors of a prompt of MPT (transfer_from: all).")
    ] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write a prompt as a PEFT adapter, which `PeftModel.from_pretrained(model, folder)` loads.

    Several prompts that MPT-group has trained together become one adapter with a task for each, in their order.

    Examples:

    `prompttransfer export amazon.safetensors amazon-adapter`

    `prompttransfer export --multitask runs/mpt/prompts/MPT/sst2-seed42.safetensors sst2-adapter`
    """
    with friendly_errors(debug):
        from prompttransfer.interchange import export_files, read_card

        with shown_progress(quiet or as_json) as progress:
            if (model or read_card(prompts[0]).model) == "demo":
                from prompttransfer.files.assets import demo_model

                model = str(demo_model(progress))
            export_files(prompts, folder, base_model=model, seq2seq=seq2seq, multitask=multitask)
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if as_json:
            shown = ("peft_type", "base_model_name_or_path", "num_tasks", "num_virtual_tokens")
            facts = {"adapter": str(folder), **{name: config[name] for name in shown if name in config}}
            show_json(facts)
            return
        show(f"adapter: {folder} ({config['peft_type']}, base model {config['base_model_name_or_path']})")
        if config["peft_type"] == "MULTITASK_PROMPT_TUNING":
            tasks = config["num_tasks"]
            show(f"calls want task_ids: {'0' if tasks == 1 else f'0 to {tasks - 1}, in the order of the files'}")
        if config["num_transformer_submodules"] == 2:
            show("half of the prompt stands before the decoder's input; PEFT's generate leaves that half out")
