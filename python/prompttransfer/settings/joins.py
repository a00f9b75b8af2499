"""How the answer of a causal model joins its text.

- "space": behind one space, which belongs to the answer's first token; spaces at the end of the text are dropped.
- "none": directly; text and answer are read as they are written.
- "separate": as "none", but the answer is tokenized on its own, behind the start token if the tokenizer writes one.
"""

from __future__ import annotations

from typing import Literal

Join = Literal["space", "none", "separate"]


def natural_join(ending: str) -> Join:
    """The join that the end of a template or cue asks for: "none" behind a line break or a tab, else "space"."""
    return "none" if ending[-1:].isspace() and not ending.endswith(" ") else "space"


def literal_join(template: str) -> Join:
    """The join of a template that is followed to the letter: "none" behind any white space, else "space"."""
    return "none" if template[-1:].isspace() else "space"
