"""Blocks of settings: names are checked, and a preset may stand for several of them."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # as a file holds it: no text, no NaN


class Settings(BaseModel):
    """A block of settings that refuses a name it does not know and suggests the one that was meant."""

    # Its name in the settings of a run, where a method brings it.
    block: ClassVar[str] = ""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, given: Any) -> Any:
        unknown = [name for name in given if name not in cls.model_fields] if isinstance(given, dict) else []
        if unknown:
            # Located at the name itself, so that a message about a block inside another one has its whole path.
            raise ValidationError.from_exception_data(cls.__name__, [cls._unknown(str(name)) for name in unknown])
        return given

    @classmethod
    def _unknown(cls, name: str) -> InitErrorDetails:
        near = get_close_matches(name, cls.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
        message = PydanticCustomError("unknown_setting", "unknown setting; {hint}", {"hint": hint})
        return {"type": message, "loc": (name,), "input": {}}


class Presets(Settings):
    """Settings with names for several at once: `variant` fills in what is not given, `ablation` fixes what it names."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    ablations: ClassVar[dict[str, dict[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = cls.variants.get(str(given.get("variant")), {}) | given
        for name, value in cls.ablations.get(str(given.get("ablation")), {}).items():
            if given.setdefault(name, value) != value:
                raise ValueError(f"ablation {given['ablation']!r} sets {name}={value!r}, got {name}={given[name]!r}")
        return given


def _rows(given: Any) -> Any:
    if given == "all":
        return None
    if isinstance(given, str) and not given.strip().lstrip("+-").isdecimal():
        raise ValueError("want a whole number of rows, or all")
    return given


RowCount = Annotated[int | None, Field(ge=1), BeforeValidator(_rows)]
