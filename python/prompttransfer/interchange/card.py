"""The card of a prompt: where it comes from, and how a model reads text with it.

It is the metadata of a prompt file, where every value is a string, and a JSON file in a prompt library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field

from prompttransfer.files.json_file import parse_json
from prompttransfer.interchange.files import read_tensors
from prompttransfer.interchange.hub import Place
from prompttransfer.settings.base import Settings
from prompttransfer.settings.joins import Join
from prompttransfer.settings.reading import Reading
from prompttransfer.settings.recipes import checked

Kind = TypeVar("Kind")


def _parsed(value: Any) -> Any:
    """Parse a list, a table or a group of settings, which is a string in metadata."""
    return parse_json(value) if isinstance(value, str) else value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_parsed)]
Named = Annotated[dict[str, Kind], BeforeValidator(_parsed)]


class Card(Settings):
    """The card of a prompt. Every field may be unknown."""

    model: str = ""
    """hub ID or folder of the model, or demo"""
    model_fingerprint: str = ""
    """fingerprint of the model's weights and vocabulary"""
    architecture: Literal["causal", "seq2seq"] | None = None
    """type of the model"""
    placement: Literal["encoder", "encoder-decoder"] = "encoder"
    """prompt before the text, or half before it and half before the decoder's input"""
    init_hash: str = ""
    """hash of P_init; task vectors with equal hashes are comparable"""
    task: str = ""
    method: str = ""
    seed: int | None = None
    metric: str = ""
    """metric of the score"""
    score: Finite | None = None
    """score on test rows, on the metric's scale"""
    scores: Named[Finite] = Field(default_factory=dict)
    """baselines of the score"""
    scoring: Literal["first-token", "full", "generate"] | None = None
    """how to choose an answer"""
    choices: Texts = ()
    """the answers; empty for free text"""
    template: str = ""
    """text for the model, with fields in braces"""
    columns: Named[str] = Field(default_factory=dict)
    """column of each field in the training table"""
    reading: Annotated[Reading, BeforeValidator(_parsed)] = Reading()
    """options for reading the training table, such as encoding and delimiter"""
    max_words: int | None = Field(None, ge=1)
    """words to keep of each field"""
    max_length: int | None = Field(None, ge=1)
    """text tokens to keep per row"""
    cut: Literal["start", "end"] = "start"
    """end of a long text to cut off"""
    cue: str = ""
    """text for a causal model between text and answer"""
    join: Join | None = None
    """how a causal model's answer joins the text: space, none or separate (the template is then read literally); if
    missing: as space, but trailing spaces of the template are read"""
    max_answer: int | None = Field(None, ge=1)
    """largest number of tokens of a free-text answer"""
    precision: Literal["auto", "float32", "bfloat16"] | None = None
    """precision of the model's products"""
    licence: str = ""
    date: str = ""
    """date of creation, such as 2026-01-31"""

    @classmethod
    def of(cls, metadata: Mapping[str, Any], where: Path | str) -> Card:
        """Build a card from the metadata of a file. Ignores other names. A ValueError names the file and the value."""
        return cls.checked({name: value for name, value in metadata.items() if name in cls.model_fields}, where)

    @classmethod
    def checked(cls, content: Mapping[str, Any], where: Path | str) -> Card:
        """Build a card from a JSON card. A ValueError names the file and the value, or the unknown name."""
        return checked(cls.model_validate, dict(content), where)

    def metadata(self) -> dict[str, str]:
        """The known fields, as strings."""
        known = self.model_dump(mode="json", exclude_defaults=True)
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in known.items()}


def read_card(path: Place) -> Card:
    """Read the card of a prompt file. Raises ValueError if it is not a prompt file, or the card is invalid."""
    return Card.of(read_tensors(path)[1], path)
