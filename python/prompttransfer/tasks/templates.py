"""Build the text for a model from the fields of a row.

A template ends where the answer follows. Each field can be cut to a number of words, so that all fields fit into the
tokens that the model keeps, which are the last ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from string import Formatter

from prompttransfer.tasks.task import Example
from prompttransfer.tasks.words import first_words


@lru_cache
def fields_of(template: str) -> tuple[str, ...]:
    """Names of the fields of a template such as "Review: {text}\\nSentiment:", in order.

    Raises:
        ValueError: the template is malformed, has no field, or has more than a name in braces ({text:>9}).
    """
    try:
        parts = [part for part in Formatter().parse(template) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"template {template!r}: {error}") from error
    for _, name, form, conversion in parts:
        if form or conversion:
            raise ValueError(f"template {template!r}: want the name alone in braces, such as {{{name}}}")
    names = [str(name) for _, name, _, _ in parts]
    if not names or not all(name.isidentifier() for name in names):
        raise ValueError(f'template {template!r}: got fields {names}, want names in braces, such as "{{text}}"')
    return tuple(dict.fromkeys(names))


def shorten(text: str, max_words: int | None = None) -> str:
    """The first max_words words (None: all). All white space becomes single spaces."""
    text = " ".join(text.split())
    return text if max_words is None else first_words(text, max_words)


def render(
    template: str,
    fields: Mapping[str, str],
    label: int = -1,
    *,
    references: Sequence[str] = (),
    max_words: int | None = None,
) -> Example:
    """Build an example from the fields' values. Each is cut to max_words words in `text`, but not in `raw`.

    Args:
        label: index of the right choice.
        references: for free text, all right answers. The model learns to write the first.
    """
    names = fields_of(template)
    text = template.format(**{name: shorten(fields[name], max_words) for name in names})
    raw = " ".join(fields[name] for name in names)
    return Example(raw, text, label, references[0] if references else "", tuple(references))
