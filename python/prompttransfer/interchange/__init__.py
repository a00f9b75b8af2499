"""Trained prompts as files with a card that says where they come from, and as PEFT adapters."""

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
from prompttransfer.interchange.peft_export import export_files, export_multitask, export_peft
from prompttransfer.interchange.peft_import import Imported, import_peft

__all__ = [
    "Card",
    "Factors",
    "Imported",
    "export_files",
    "export_multitask",
    "export_peft",
    "import_peft",
    "read_card",
    "read_factors",
    "read_prompt",
    "read_tensors",
    "read_trained",
    "write_prompt",
    "write_tensors",
]
