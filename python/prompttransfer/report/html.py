"""A page that needs nothing else and has no scripts, laid out by templates/page.html."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from prompttransfer.report import theme
from prompttransfer.report.escaping import harmless
from prompttransfer.report.pictures import Picture
from prompttransfer.report.svg import inline, key_mark

_LONG_WORD = 18


class Link(str):
    """Words that lead to a file below or beside the page. Nothing in the path can name another scheme or host."""

    path: str

    def __new__(cls, words: str, path: str) -> Link:
        made = super().__new__(cls, words)
        made.path = quote(path, errors="replace")
        return made


Shown = str | Sequence[str]  # in a cell of a table: words, or several, each of which may be a link


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        table: head and rows. All words of the head empty: no such line; no rows: no such section.
        words: so many first columns of the table are set left, the others right.
        wrap: all cells hold words that may wrap.
        base: rows and columns named here are set back: what scores are compared with.
        code: waits to be opened.
    """

    title: str
    table: tuple[Sequence[str], Sequence[Sequence[Shown]]] | None = None
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
    """A page; its sections are reached from a list at the top."""
    kept = [section for section in sections if section.table is None or section.table[1]]
    return _templates().get_template("page.html").render(title=title, intro=intro, warnings=warnings, sections=kept)


def fragment(intro: str, warnings: Sequence[str], section: Section) -> str:
    """One table with what stands above it, to be part of a page of others."""
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
    """What a template is to show; markup is harmless already."""
    return harmless(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _is_long(name: str) -> bool:
    return max(map(len, name.split()), default=0) > _LONG_WORD
