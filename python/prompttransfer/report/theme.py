"""Colours, light and dark, and the styles of pages and pictures."""

from __future__ import annotations

# Okabe and Ito's colours, told apart by colour-blind readers too; the last two stand in for black and yellow.
_LIGHT = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c8c8c", "#5a3d8a", "#a08c00")
_DARK = ("#4aa3df", "#f0b429", "#2cc295", "#f08040", "#e39bc3", "#8fd0f5", "#9a9a9a", "#a98be0", "#d6c64a")
SERIES = len(_LIGHT)


def _named(series: tuple[str, ...], **colours: str) -> dict[str, str]:
    return {**colours, **{f"s{place}": colour for place, colour in enumerate(series)}}


LIGHT = _named(
    _LIGHT,
    ink="#1b1b1b",
    faint="#5d5d5d",
    rule="#dcdcdc",
    paper="#ffffff",
    shade="#f3f4f6",
    warn="#fff3cd",
    up="#0072b2",
    down="#d55e00",
)
DARK = _named(
    _DARK,
    ink="#e8e8e8",
    faint="#a6a6a6",
    rule="#3a3d42",
    paper="#16181c",
    shade="#22252b",
    warn="#4a3d10",
    up="#4aa3df",
    down="#e8793a",
)

# What a panel is drawn with. ink, ghost, l0 and on: lines; inkfill, ghostfill, up, down, f0 and on: areas.
CLASSES = """\
.panel text{font:11px system-ui,-apple-system,'Segoe UI',sans-serif;fill:var(--ink)}
.panel text.name{font-weight:600;font-size:12px}
.panel text.faint{fill:var(--faint)}
.rule{stroke:var(--rule);stroke-width:1}
.axis{stroke:var(--faint);stroke-width:1}
.ink{stroke:var(--ink);stroke-width:1.6;fill:none}
.ghost{stroke:var(--faint);stroke-width:1.6;fill:none}
.dash{stroke-dasharray:5 3}
.dots{stroke-dasharray:1.5 2.5}
.inkfill{fill:var(--ink)}
.ghostfill{fill:var(--faint)}
.up{fill:var(--up)}
.down{fill:var(--down)}
""" + "\n".join(
    f".l{i}{{stroke:var(--s{i});stroke-width:1.7;fill:none}}.f{i}{{fill:var(--s{i})}}" for i in range(SERIES)
)


def _variables(colours: dict[str, str]) -> str:
    return ";".join(f"--{name}:{value}" for name, value in colours.items())


STYLE = f"""
:root{{color-scheme:light dark;{_variables(LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}
@media print{{:root{{color-scheme:light;{_variables(LIGHT)}}}.scroll{{max-height:none!important}}}}
*{{box-sizing:border-box}}
body{{font:15px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif;max-width:1380px;margin:0 auto;padding:1rem;
  color:var(--ink);background:var(--paper);overflow-wrap:anywhere}}
h1{{font-size:1.5rem;line-height:1.2;margin:.4rem 0}}
h2{{font-size:1.15rem;margin:2.2rem 0 .4rem;scroll-margin-top:1rem}}
a{{color:var(--up)}}
nav{{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.8rem 0;font-size:.92rem}}
.scroll{{overflow:auto;max-height:34rem;width:fit-content;max-width:100%;margin:.5rem 0;
  border:1px solid var(--rule);border-radius:6px}}
table{{border-collapse:separate;border-spacing:0;font-size:.9rem;font-variant-numeric:tabular-nums}}
th,td{{padding:.28rem .65rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap;
  overflow-wrap:normal}}
th.text,td.text{{text-align:left}}
td.long{{white-space:normal;min-width:9rem;max-width:44rem}}
th.long{{min-width:9rem;max-width:24rem;white-space:normal;overflow-wrap:anywhere}}
tbody tr:last-child>*{{border-bottom:0}}
tbody th{{font-weight:600;position:sticky;left:0;z-index:1;background:var(--paper);text-align:left}}
thead th{{position:sticky;top:0;z-index:2;background:var(--shade);white-space:normal;vertical-align:bottom}}
thead th:first-child{{left:0;z-index:3}}
tr.base>*,td.base,th.base{{color:var(--faint);font-style:italic;font-weight:400}}
@media (max-width:600px){{
  tbody th{{white-space:normal}}
  th,td{{padding:.25rem .45rem}}
}}
.small,figcaption{{color:var(--faint);font-size:.88rem;max-width:60rem}}
.warn{{background:var(--warn);padding:.5rem .8rem;border-radius:6px;max-width:60rem}}
figure{{margin:.6rem 0}}
summary{{cursor:pointer;padding:.3rem 0}}
.panels{{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,300px),1fr));gap:.6rem 1.2rem}}
.free{{display:flex;flex-wrap:wrap;gap:.6rem 1.6rem;align-items:flex-start}}
.free>div{{overflow-x:auto;max-width:100%}}
.panel{{display:block;height:auto}}
.panels .panel{{width:100%;max-width:calc(var(--w)*1.3px)}}
.free .panel{{width:calc(var(--w)*1.15px);min-width:calc(var(--w)*.72px);max-width:100%}}
.legend{{display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.88rem;margin:.4rem 0;padding:0;list-style:none}}
.legend svg{{vertical-align:middle;margin-right:.35rem}}
pre{{background:var(--shade);padding:.8rem;overflow-x:auto;font-size:.8rem;border-radius:6px}}
{CLASSES}
"""
