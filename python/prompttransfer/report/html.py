"""Parts of a page that needs nothing else and has no scripts: document, tables, pictures. All text is escaped."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from urllib.parse import quote

from prompttransfer.report.escaping import escape
from prompttransfer.report.pictures import Picture
from prompttransfer.report.svg import inline, key_mark
from prompttransfer.report.theme import STYLE

_LONG_WORD = 18
_SHOWN = 12  # panels of a picture that are open at first


class Markup(str):
    """Text that is HTML already."""


def text(words: str) -> str:
    """Escaped, unless it is markup."""
    return words if isinstance(words, Markup) else escape(words)


def link(path: str, words: str) -> Markup:
    """A link to a file below or beside the page. Nothing in the path can name another scheme or host."""
    target = escape(quote(path, errors="replace"))
    return Markup(f'<a href="{target}">{escape(words)}</a>')


def document(title: str, intro: Sequence[str], sections: Sequence[tuple[str, str]]) -> str:
    """A page; intro: paragraphs of HTML; sections: titles and HTML, reached from a list at the top."""
    named = [(re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-"), name, body) for name, body in sections]
    nav = "".join(f'<a href="#{mark}">{escape(name)}</a>' for mark, name, _ in named)
    body = "\n".join(f'<section><h2 id="{mark}">{escape(name)}</h2>\n{part}\n</section>' for mark, name, part in named)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n"
        + "\n".join(intro)
        + f"\n<nav>{nav}</nav>\n{body}\n</body></html>\n"
    )


def paragraph(words: str, classes: str = "small") -> str:
    return f'<p class="{classes}">{escape(words)}</p>'


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words: int = 1,
    base: Sequence[str] = (),
    long: Sequence[str] = (),
) -> str:
    """A table that scrolls in its own box.

    Args:
        head: words above the columns; all empty: no such line.
        words: so many first columns are set left, the others right.
        base: rows and columns named here are set back: what scores are compared with.
        long: columns whose words may wrap, set left.
    """

    def kind(place: int, name: str, wraps: bool) -> str:
        names = {
            "text": place < words or name in long,
            "long": wraps,
            "base": name in base,
        }
        chosen = " ".join(name for name, is_so in names.items() if is_so)
        return f' class="{chosen}"' if chosen else ""

    heads = [kind(place, name, _is_long(name)) for place, name in enumerate(head)]
    marks = [kind(place, name, name in long) for place, name in enumerate(head)]
    top = "".join(f'<th scope="col"{mark}>{text(name)}</th>' for mark, name in zip(heads, head, strict=True))
    lines = []
    for row in rows:
        first, *others = (text(cell) for cell in row)
        cells = "".join(f"<td{mark}>{cell}</td>" for mark, cell in zip(marks[1:], others, strict=True))
        style = ' class="base"' if row[0] in base else ""
        # A long name must not fill the window: its column stays in view while the others scroll.
        name = ' class="long"' if _is_long(row[0]) else ""
        lines.append(f'<tr{style}><th scope="row"{name}>{first}</th>{cells}</tr>')
    body = "\n".join(lines)
    # Focusable, so that it scrolls by keyboard too.
    thead = f"<thead><tr>{top}</tr></thead>\n" if any(head) else ""
    inside = f"<table>{thead}<tbody>\n{body}\n</tbody></table>"
    return f'<div class="scroll" tabindex="0">{inside}</div>'


def _is_long(name: str) -> bool:
    return max(map(len, name.split()), default=0) > _LONG_WORD


def figure(picture: Picture) -> str:
    """Panels in as many columns as the window has room for; of many, all but the first wait to be opened."""
    panels = [inline(panel) for panel in picture.panels]
    keys = "".join(
        f'<li><svg width="24" height="10" aria-hidden="true">{key_mark(key, 0, 5)}</svg>{escape(key.label)}</li>'
        for key in picture.legend
    )
    legend = f'<ul class="legend">{keys}</ul>' if keys else ""
    same = len({panel.width for panel in picture.panels}) == 1 and len(panels) > 1
    grid: Callable[[Sequence[str]], str] = _columns if same else _side_by_side
    body = grid(panels[:_SHOWN])
    if len(panels) > _SHOWN:
        body += f"<details><summary>{len(panels) - _SHOWN} more</summary>{grid(panels[_SHOWN:])}</details>"
    return f"<figure><figcaption>{escape(picture.caption)}</figcaption>{legend}{body}</figure>"


def _columns(panels: Sequence[str]) -> str:
    return f'<div class="panels">{"".join(panels)}</div>'


def _side_by_side(panels: Sequence[str]) -> str:
    return f'<div class="free">{"".join(f"<div>{panel}</div>" for panel in panels)}</div>'
