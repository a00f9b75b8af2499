"""What the command line gives of a run's settings: its options, and any other setting by `--set NAME=VALUE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prompttransfer.files.yaml_file import parse_yaml
from prompttransfer.settings.overlay import merged, nested


def given_settings(options: Mapping[str, Any], assigned: Sequence[str] | None = None) -> dict[str, Any]:
    """The options that are given (not None), and nested settings of `--set`.

    Args:
        options: all of the command that are settings, by the setting's name.
        assigned: such as "mpt.rank=2"; the value is read as in a recipe, as YAML.

    Raises:
        ValueError: no name or no value, a setting that has an option, or one that is given twice.
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
