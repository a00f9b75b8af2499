"""What is not on this machine, and how to get it."""

from __future__ import annotations

from typing import NamedTuple


class Missing(NamedTuple):
    """what: that is not there, and why it is needed; command: gets it, or says what to change."""

    what: str
    command: str


def one_line(error: Exception) -> str:
    """The message of an error, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
