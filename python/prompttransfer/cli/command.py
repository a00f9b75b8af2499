"""What every command gets: arguments that are text and paths, and somebody who sees what it shows."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from prompttransfer.cli.errors import friendly_errors
from prompttransfer.files.paths import expanded
from prompttransfer.files.texts import check_output, check_text

PRINTED = ("evaluate", "predict", "similar")  # whose only result is what they print


def checked(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose texts are UTF-8, and whose paths, which may be any bytes, have ~ replaced: --output=~/runs."""

    @wraps(command)
    def begin(**arguments: Any) -> None:
        with friendly_errors(arguments["debug"]):
            if command.__name__ in PRINTED:
                check_output()
            arguments = {name: _received(value, name.replace("_", "-")) for name, value in arguments.items()}
        command(**arguments)

    return begin


def _received(value: Any, what: str) -> Any:
    """A value, or each of several, as the command gets it."""
    if isinstance(value, list):
        return [_received(one, f"{what.removesuffix('s')} {number}") for number, one in enumerate(value, start=1)]
    if isinstance(value, Path):
        return expanded(value)
    return check_text(value, what) if isinstance(value, str) else value
