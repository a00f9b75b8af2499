"""Light and dark colours of pages and pictures, and the styles of the marks in a picture."""

from __future__ import annotations

# Okabe and Ito's colours, which colour-blind readers can distinguish; the last two replace black and yellow.
_LIGHT = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c8c8c", "#5a3d8a", "#a08c00")
_DARK = ("#4aa3df", "#f0b429", "#2cc295", "#f08040", "#e39bc3", "#8fd0f5", "#9a9a9a", "#a98be0", "#d6c64a")
SERIES = len(_LIGHT)
_COLOURS = {  # light and dark
    "ink": ("#1b1b1b", "#e8e8e8"),
    "faint": ("#5d5d5d", "#a6a6a6"),
    "rule": ("#dcdcdc", "#3a3d42"),
    "paper": ("#ffffff", "#16181c"),
    "shade": ("#f3f4f6", "#22252b"),
    "warn": ("#fff3cd", "#4a3d10"),
    "up": ("#0072b2", "#4aa3df"),
    "down": ("#d55e00", "#e8793a"),
    **{f"s{place}": pair for place, pair in enumerate(zip(_LIGHT, _DARK, strict=True))},
}
LIGHT, DARK = ({name: pair[side] for name, pair in _COLOURS.items()} for side in (0, 1))

# Classes of the marks in a panel. ink, ghost, l0, l1, ...: lines; inkfill, ghostfill, up, down, f0, f1, ...: areas.
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
