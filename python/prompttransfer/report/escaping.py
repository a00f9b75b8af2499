"""Escape untrusted text for a page or a picture: names of tasks and methods, notes, paths, settings."""

from __future__ import annotations

import html
import re

# Control characters, which SVG forbids; characters that change the text direction; lone surrogates, which cannot be
# encoded; the two noncharacters.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def harmless(words: str) -> str:
    """Replace harmful characters by U+FFFD."""
    return _HARMFUL.sub("\ufffd", words)


def escape(words: str) -> str:
    """Escape text for an element or for a quoted attribute."""
    return html.escape(harmless(words))
