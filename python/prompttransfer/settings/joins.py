"""How the answer of a causal model joins its text.

- "space": after one space, which belongs to the answer's first token. Spaces at the end of the text are dropped.
- "none": directly. Text and answer are read as written.
- "separate": as "none", but the answer is tokenized on its own, after the start token if the tokenizer adds one.
"""

from __future__ import annotations

from typing import Literal

Join = Literal["space", "none", "separate"]


def natural_join(ending: str) -> Join:
    """The join implied by the end of a template or cue: "none" after a line break or a tab, else "space"."""
    return "none" if ending[-1:].isspace() and not ending.endswith(" ") else "space"


def literal_join(template: str) -> Join:
    """The join for a template taken literally: "none" after any white space, else "space"."""
    return "none" if template[-1:].isspace() else "space"
