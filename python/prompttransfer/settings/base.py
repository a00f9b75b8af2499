"""Blocks of settings with checked names, and presets for several settings at once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]  # strict: no text, no NaN


class Settings(BaseModel):
    """A block of settings that rejects unknown names and suggests a similar one."""

    # Name of a method's block in the settings of a run.
    block: ClassVar[str] = ""

    # The text below a setting is its description, for the pages and the help of its option.
    model_config = ConfigDict(extra="forbid", validate_default=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _known_names(cls, values: Any) -> Any:
        unknown = [name for name in values if name not in cls.model_fields] if isinstance(values, dict) else []
        if unknown:
            # The error's location is the name itself, so that a message about a nested block has the whole path.
            raise ValidationError.from_exception_data(cls.__name__, [cls._unknown(str(name)) for name in unknown])
        return values

    @classmethod
    def _unknown(cls, name: str) -> InitErrorDetails:
        near = get_close_matches(name, cls.model_fields, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(cls.model_fields)}"
        message = PydanticCustomError("unknown_setting", "unknown setting; {hint}", {"hint": hint})
        return {"type": message, "loc": (name,), "input": {}}


class Presets(Settings):
    """Settings with presets: `variant` changes the defaults of several settings, `ablation` fixes their values."""

    variants: ClassVar[dict[str, dict[str, Any]]] = {}
    ablations: ClassVar[dict[str, dict[str, Any]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _presets(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = cls.variants.get(str(values.get("variant")), {}) | values
        for name, value in cls.ablations.get(str(values.get("ablation")), {}).items():
            if values.setdefault(name, value) != value:
                raise ValueError(f"ablation {values['ablation']!r} sets {name}={value!r}, got {name}={values[name]!r}")
        return values


def _rows(rows: Any) -> Any:
    if rows == "all":
        return None
    if isinstance(rows, str) and not rows.strip().lstrip("+-").isdecimal():
        raise ValueError("want a whole number of rows, or all")
    return rows


RowCount = Annotated[int | None, Field(ge=1), BeforeValidator(_rows)]
