"""What the commands share: option values, settings, progress, and errors in a line or two."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from prompttransfer.config import METHODS, RunConfig


def default_of(name: str) -> str:
    """The default of a setting, for the help text."""
    value = RunConfig.model_fields[name].default
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def task_names(values: list[str] | None) -> tuple[str, ...] | None:
    """Values of a repeated option, those with commas taken apart."""
    if values is None:
        return None
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def method_names(values: list[str] | None) -> tuple[str, ...] | None:
    """Method names in any case."""
    names = task_names(values)
    known = {name.lower(): name for name in METHODS}
    return None if names is None else tuple(known.get(name.lower(), name) for name in names)


def file_settings(file: Path | None) -> dict[str, Any]:
    """The settings in a JSON file, unchecked; none without a file."""
    if file is None:
        return {}
    if not file.is_file():
        raise FileNotFoundError(f"settings file {file} does not exist")
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"settings file {file} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"settings file {file}: got {type(given).__name__}, want an object of settings")
    return given


def settings_of(given: dict[str, Any], options: dict[str, Any]) -> RunConfig:
    """RunConfig of the settings of a file and the options that were given (not None), which win."""
    return RunConfig(**{**given, **{name: value for name, value in options.items() if value is not None}})


# What `train` does where neither a settings file nor an option says otherwise.
TRAIN_DEFAULTS = {"methods": ("PT",), "train_rows": 2000, "test_rows": 200, "target_updates": 100, "seeds": (42,)}


def train_settings(given: dict[str, Any], options: dict[str, Any]) -> RunConfig:
    """Settings of `train`: one task, one method, one seed.

    Of several methods or seeds in a settings file, such as that of a comparison, the first is meant. Without named
    sources, the demo's serve, but never the task itself.
    """
    merged = {**TRAIN_DEFAULTS, **given, **{name: value for name, value in options.items() if value is not None}}
    for name in ("methods", "seeds"):
        if isinstance(merged[name], list | tuple):  # anything else is refused below
            merged[name] = tuple(merged[name][:1])
    if merged["methods"] == ("PT",):
        merged["sources"] = ()
    elif "sources" not in merged:
        default = RunConfig.model_fields["sources"].default
        merged["sources"] = tuple(name for name in default if name not in merged["targets"])
    return RunConfig(**merged)


def shown_progress(silent: bool) -> Any:
    from prompttransfer.progress import NullProgress, Progress

    return NullProgress() if silent else Progress()


@contextmanager
def friendly_errors(debug: bool) -> Iterator[None]:
    """Errors of the user's making in a line or two; Ctrl-C says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("stopped; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    except (ValueError, OSError, RuntimeError, ImportError) as error:
        if debug or isinstance(error, typer.Exit):
            raise
        typer.echo(f"error: {_message(error)}", err=True)
        if not _expected(error):
            typer.echo("run again with --debug for the traceback", err=True)
        raise typer.Exit(2) from None


def _message(error: Exception) -> str:
    """The error's own words; of a refused settings block, one line for each setting."""
    errors = getattr(error, "errors", None)
    if not callable(errors):
        return str(error) or type(error).__name__
    lines, items = [], errors()
    for item in items:
        if any(item["loc"] == other["loc"][: len(item["loc"])] != other["loc"] for other in items):
            continue  # a block is refused because of a part that is named in another line
        name = ".".join(map(str, item["loc"]))
        text = item["msg"].removeprefix("Value error, ")
        got = f", got {item['input']!r}" if name and not isinstance(item["input"], dict) else ""
        lines.append(f"{name}: {text}{got}" if name else text)
    return "\n".join(lines)


def _expected(error: Exception) -> bool:
    """Whether the message alone will do: all but failures deep inside a library."""
    return not isinstance(error, RuntimeError) or type(error).__module__.startswith("prompttransfer")
