"""Words of others in a page or a picture: names of tasks and methods, notes, paths, settings."""

from __future__ import annotations

import html
import re

# Control characters, which SVG may not hold; what turns the direction of the text around it; halves of surrogate pairs,
# which no file can hold; the two that are no characters.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def harmless(words: str) -> str:
    """The words, in which U+FFFD stands for what could do harm."""
    return _HARMFUL.sub("\ufffd", words)


def escape(words: str) -> str:
    """Harmless as the text of an element or between quotation marks of an attribute."""
    return html.escape(harmless(words))
