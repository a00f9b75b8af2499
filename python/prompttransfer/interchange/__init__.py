"""Trained prompts as files with a card that says where they come from, as PEFT adapters, and on a hub.

Readers take the path of a file, or a hub ID: `user/name`, or `user/name@revision`.
"""

from prompttransfer.interchange.card import Card, read_card
from prompttransfer.interchange.files import (
    Factors,
    read_factors,
    read_prompt,
    read_tensors,
    read_trained,
    write_prompt,
    write_tensors,
)
from prompttransfer.interchange.hub import Pushed
from prompttransfer.interchange.peft_export import export_files, export_multitask, export_peft
from prompttransfer.interchange.peft_import import Imported, import_peft
from prompttransfer.interchange.publish import push_prompt

__all__ = [
    "Card",
    "Factors",
    "Imported",
    "Pushed",
    "export_files",
    "export_multitask",
    "export_peft",
    "import_peft",
    "push_prompt",
    "read_card",
    "read_factors",
    "read_prompt",
    "read_tensors",
    "read_trained",
    "write_prompt",
    "write_tensors",
]
