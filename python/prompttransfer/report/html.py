"""A self-contained HTML page without scripts, from templates/page.html."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from prompttransfer.report import theme
from prompttransfer.report.svg import Picture, harmless, inline, key_mark

_LONG_WORD = 18


def link(words: str, path: str) -> Markup:
    """A link to a file relative to the page. Whatever the path is, it cannot contain a scheme or host."""
    return Markup('<a href="{}">{}</a>').format(quote(path, errors="replace"), harmless(words))


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        table: head and rows. An empty head is not shown; a section without rows is left out.
        words: number of leading columns that are left-aligned; the others are right-aligned.
        wrap: whether text in cells may wrap.
        base: names of rows and columns to dim, because they are what scores are compared with.
        code: preformatted text, collapsed at first.
    """

    title: str
    table: tuple[Sequence[str], Sequence[Sequence[str]]] | None = None
    words: int = 1
    wrap: bool = False
    base: Sequence[str] = ()
    note: str = ""
    picture: Picture | None = None
    code: str = ""

    @property
    def mark(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def document(title: str, intro: str, warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """A page with a list of its sections at the top."""
    kept = [section for section in sections if section.table is None or section.table[1]]
    return _templates().get_template("page.html").render(title=title, intro=intro, warnings=warnings, sections=kept)


def fragment(intro: str, warnings: Sequence[str], section: Section) -> str:
    """One table with the text above it, to embed in another page."""
    return _templates().get_template("notebook.html").render(intro=intro, warnings=warnings, section=section)


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("prompttransfer.report"),
        autoescape=True,
        finalize=_harmless,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.globals |= {"theme": theme, "inline": inline, "key_mark": key_mark}
    templates.tests["long"] = _is_long
    return templates


def _harmless(value: Any) -> Any:
    """Sanitize a value for a template. Markup is already safe."""
    return harmless(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _is_long(name: str) -> bool:
    return max(map(len, Markup(name).striptags().split()), default=0) > _LONG_WORD
