"""Settings on the command line: options from the fields of `RunConfig` and `Reading`, and `--set NAME=VALUE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic import BeforeValidator

from prompttransfer.cli import completion
from prompttransfer.files.yaml_file import parse_yaml
from prompttransfer.settings.overlay import merged, nested
from prompttransfer.settings.reading import Reading

# Headings of the help. Options without one come first.
TASKS, DATA, MODEL, TRAINING = "Tasks and methods", "Data", "Model and scoring", "Training"
SETTINGS = {
    TASKS: ("sources", "targets", "methods", "seeds"),
    DATA: ("text_column", "label_column", "data_dir", "answers", "bad_rows", "train_rows", "test_rows"),
    MODEL: ("model", "precision", "shard_model", "max_length", "scoring"),
    TRAINING: (
        *("source_updates", "target_updates", "prompt_length", "batch_size", "learning_rate", "variant"),
        "report_to",
    ),
}
_HEADINGS = {name: heading for heading, names in SETTINGS.items() for name in names} | dict.fromkeys(
    Reading.model_fields, DATA
)


def setting_option(name: str, default: Any = None) -> Parameter:
    """Build an option from a setting's name, type and description.

    The first sentence of the description is the help. The text after "Default:" is shown if the default is None. The
    setting itself checks its value, so the option of a setting with only a few values takes any text.

    Args:
        default: default to show in place of the setting's.
    """
    field = completion.FIELDS[name]
    about, _, unset = " ".join((field.description or "").split()).partition(" Default: ")
    if default is None:
        default = unset.removesuffix(".") if field.default is None else field.default
    kind = _kind(name)
    flag = f"--{name.replace('_', '-')}"
    *others, last = completion.values(name) or [""]
    values = f": {', '.join(others)} or {last}" if others else ""
    option = typer.Option(
        f"{flag}/--no-{name}" if field.default is True else flag,
        rich_help_panel=_HEADINGS.get(name),
        metavar="A,B,..." if kind == list[str] else None,
        help=f"{about.split('. ')[0].removesuffix('.')}{values}.",
        show_default=_shown(default) or False,
        autocompletion=completion.setting(name),
    )
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option])


def _shown(default: Any) -> str:
    if isinstance(default, list | tuple):
        return ",".join(map(str, default))
    return "" if default is None or default is False else str(default)


def _kind(name: str) -> Any:
    """Type of an option's value; a list if the option may be repeated."""
    field = completion.FIELDS[name]
    if any(isinstance(each, BeforeValidator) for each in field.metadata):
        return str  # the setting parses it, for example a number of rows or "all"
    if get_origin(field.annotation) is tuple:
        return list[str]
    kinds = (field.annotation, *get_args(field.annotation))
    bare = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    return next((kind for kind in (bool, int, float, Path) if kind in bare), str)


def split(values: Sequence[str] | None) -> tuple[str, ...] | None:
    """Values of a repeated option, split at commas."""
    if values is None:
        return None
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def collect_settings(options: Mapping[str, Any], assigned: Sequence[str] | None = None) -> dict[str, Any]:
    """Collect the options that were given (not None) and the settings of `--set`, nested as in a recipe.

    Args:
        options: values of all options that are settings, by the setting's name.
        assigned: assignments such as "mpt.rank=2". The value is parsed as YAML, as in a recipe.

    Raises:
        ValueError: an assignment has no name or value, sets something that has an option, or is repeated.
    """
    settings: dict[str, Any] = {}
    seen: set[str] = set()
    for text in assigned or ():
        path, equals, value = (part.strip() for part in text.partition("="))
        if not path or not equals or not value:
            raise ValueError(f"--set {text}: want NAME=VALUE, such as --set mpt.rank=2")
        if path in options:
            raise ValueError(f"--set {path}: this command has an option or argument for it; see --help")
        if path in seen:
            raise ValueError(f"--set {path}: given twice")
        seen.add(path)
        settings = merged(settings, nested(path, parse_yaml(value, f"--set {path}")))
    return {name: value for name, value in options.items() if value is not None} | settings
