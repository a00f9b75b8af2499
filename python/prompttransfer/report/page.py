"""One HTML file that needs nothing else: tables, pictures inside, all text escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from typing import Any

from prompttransfer.report import Picture
from prompttransfer.report.results import Results, fact_rows, overview_rows, source_rows
from prompttransfer.report.statistics import difference_rows

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th { border-bottom: 2px solid #888; font-weight: 600 } td.text, th.text { text-align: left }
tr.base td { color: #555; font-style: italic } img { max-width: 100%; height: auto }
figure { margin: 1rem 0 } figcaption, .small { color: #555; font-size: .9rem }
.warn { background: #fff3cd; padding: .5rem .8rem; border-radius: 4px }
pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .85rem }
"""


def page(results: Results, pictures: Sequence[Picture]) -> str:
    """The report as HTML."""
    content = results.content
    cells = results.cells()
    parts = ["<h1>Prompt transfer: comparison of methods</h1>", f"<p>{_summary(content)}</p>"]
    if results.judged_on != "test":
        parts.append(
            f'<p class="warn">Scored on {escape(results.judged_on)} rows: for the choice of settings, not a result.</p>'
        )
    if not content.get("finished", False):
        parts.append('<p class="warn">This run is not finished: the tables hold what is done so far.</p>')
    if cells:
        parts += ["<h2>Scores</h2>", _table(*overview_rows(results), text=1, base=("zero-shot", "majority"))]
        parts.append(
            f'<p class="small">Percent on {results.judged_on} rows; mean and standard deviation over seeds if several. '
            "zero-shot: the model without a prompt; majority: always the most frequent class. "
            "† collapsed: at least 98 % of the test rows got one answer.</p>"
        )
    head, rows = difference_rows(results.rows)
    if rows:
        parts += ["<h2>Difference to PT</h2>", _table(head, rows, text=1)]
        parts.append(
            '<p class="small">Points above or below PT in pairs of the same target and seed, with 95 % t intervals: '
            "of a target over its seeds; of the mean over targets, for other draws of rows on these targets and for "
            "other targets like these. Pairs won, tied, lost.</p>"
        )
    for picture in pictures:
        image = base64.b64encode(picture.png).decode("ascii")
        title = escape(picture.title)
        parts.append(
            f'<h2>{title}</h2><figure><img alt="{title}" src="data:image/png;base64,{image}">'
            f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
        )
    if cells:
        parts += ["<h2>Every score with its terms</h2>", _table(*fact_rows(cells), text=2)]
    head, rows = source_rows(results)
    if rows:
        parts += ["<h2>Source prompts</h2>", _table(head, rows, text=1)]
    if content.get("settings"):
        settings = escape(json.dumps(content["settings"], indent=2, ensure_ascii=False))
        parts.append(f"<h2>Settings</h2><details><summary>all settings</summary><pre>{settings}</pre></details>")
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Prompt transfer report</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _summary(content: dict[str, Any]) -> str:
    """Model, machine and versions in a sentence."""
    facts = [f"model {content.get('model', 'unknown')}"]
    if content.get("model_fingerprint"):
        facts.append(f"weights {str(content['model_fingerprint'])[:12]}")
    if content.get("commit"):
        facts.append(f"commit {str(content['commit'])[:12]}")
    machine = content.get("machine", {})
    facts += [f"{name} {machine[name]}" for name in ("device", "precision", "threads") if name in machine]
    facts += [f"{name} {version}" for name, version in content.get("versions", {}).items()]
    return escape(" · ".join(facts))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, text: int, base: Sequence[str] = ()) -> str:
    """The first `text` columns are words, set left; rows named in base are the lines to compare with."""

    def line(cells: Sequence[str], tag: str) -> str:
        kind = [' class="text"' if place < text else "" for place in range(len(cells))]
        return "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for mark, cell in zip(kind, cells, strict=True))

    marks = [' class="base"' if row[0] in base else "" for row in rows]
    body = "\n".join(f"<tr{mark}>{line(row, 'td')}</tr>" for mark, row in zip(marks, rows, strict=True))
    top = f"<thead><tr>{line(head, 'th')}</tr></thead>"
    return f'<div class="wide"><table>{top}\n<tbody>\n{body}\n</tbody></table></div>'
