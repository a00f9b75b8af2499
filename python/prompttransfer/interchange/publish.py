"""A prompt as a repository of a model hub: its file with the card, the adapter for PEFT, and a model card."""

from __future__ import annotations

import os
from pathlib import Path

from prompttransfer.files.durable import new_folder
from prompttransfer.files.json_file import read_json
from prompttransfer.interchange.card import Card
from prompttransfer.interchange.files import TENSOR, read_tensors, write_tensors
from prompttransfer.interchange.hub import CONFIG, PROMPT, Place, Pushed, check_target, is_repository, push_folder
from prompttransfer.interchange.peft_export import export_files


def push_prompt(
    path: Place,
    repository: str,
    folder: Path,
    *,
    base_model: str | None = None,
    seq2seq: bool | None = None,
    multitask: bool = False,
    licence: str | None = None,
    private: bool = False,
) -> Pushed:
    """Write a folder with a prompt file, its adapter and a model card, and push it to the hub.

    A prompt that depends on the row has no adapter. The folder appears when the push has succeeded.

    Args:
        repository: user/name; it is made unless it exists.
        base_model: hub ID of the model, where the card names none, or a folder of this machine.
        seq2seq, multitask: of `export_files`.
        licence: on the card, as the hub spells it, such as apache-2.0.
        private: of `push_folder`.

    Raises:
        ValueError: as `export_files`, `check_target` and `push_folder`; or the model is not one of the hub.
        FileExistsError: the folder is there already.
        ConnectionError: the hub does not answer.
    """
    from prompttransfer.interchange.model_card import model_card  # imports datasets, which takes seconds

    check_target(repository)
    tensors, metadata = read_tensors(path)
    card = Card.of(metadata, path)
    card = card.model_copy(update={"model": base_model or card.model, "licence": licence or card.licence})
    if card.model == "demo" or os.path.isdir(card.model) or not is_repository(card.model):
        raise ValueError(
            f"{path}: its model is {card.model or 'unnamed'!r}, which others cannot load; want --model with its hub ID"
        )
    with new_folder(folder) as fresh:
        if TENSOR in tensors or multitask:
            export_files([path], fresh, seq2seq=seq2seq, multitask=multitask, cards=[card])
            config = read_json(fresh / CONFIG)
        else:
            fresh.mkdir()
            config = None
        write_tensors(fresh / PROMPT, tensors, card.metadata())
        (fresh / "README.md").write_text(model_card(repository, card, config), encoding="utf-8")
        return push_folder(fresh, repository, private=private, message=f"Prompt for {card.task or 'a task'}")
