"""Draw small pictures as SVG. Text stays text, colours follow the light or dark theme of the page, and every mark has a
tooltip with its numbers. A panel takes a few kilobytes, so a page can have many of them."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from prompttransfer.report.theme import CLASSES, LIGHT, SERIES

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


@dataclass(frozen=True)
class Panel:
    """One drawing. body: SVG elements with the classes above, in a box of this size."""

    title: str
    width: float
    height: float
    body: str


@dataclass(frozen=True)
class Key:
    """An entry of a legend: the classes of its mark, and its label."""

    classes: str
    label: str


@dataclass(frozen=True)
class Picture:
    """Panels that belong together. name: name of its file, without the suffix."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    legend: tuple[Key, ...] = ()

    @property
    def svg(self) -> str:
        """All panels as one standalone SVG file."""
        return sheet(self.panels, self.legend)


def key_mark(key: Key, x: float, y: float) -> str:
    """The mark of a legend entry, 24 wide: a line, or a dot for a filled class."""
    if key.classes.startswith("f"):
        return f'<circle class="{key.classes}" cx="{x + 12:g}" cy="{y:g}" r="3.5"/>'
    return f'<line class="{key.classes}" x1="{x:g}" y1="{y:g}" x2="{x + 24:g}" y2="{y:g}"/>'


def line_class(series: int) -> str:
    """Class of the n-th series. Once the colours are used up, lines are dashed, then dotted."""
    return f"l{series % SERIES}{('', ' dash', ' dots')[series // SERIES % 3]}"


class Chart:
    """Builder of a panel: a plot area with two linear scales.

    Args:
        x, y: ranges (low, high). y grows upwards unless high < low.
        left, right, bottom: margins around the plot area.
    """

    def __init__(
        self,
        title: str,
        width: float,
        height: float,
        x: tuple[float, float],
        y: tuple[float, float],
        *,
        left: float = 44,
        right: float = 10,
        bottom: float = 34,
    ) -> None:
        self.title, self.width, self.height = title, width, height
        self._x, self._y = _open(x), _open(y)
        self._box = (left, 24.0, width - right, height - bottom)
        self._parts: list[str] = []
        self.text(2, 14, shortened(title, (width - 4) / 1.2), "name", tip=title)

    def x(self, value: float) -> float:
        left, _, right, _ = self._box
        return left + (value - self._x[0]) / (self._x[1] - self._x[0]) * (right - left)

    def y(self, value: float) -> float:
        _, top, _, bottom = self._box
        return bottom - (value - self._y[0]) / (self._y[1] - self._y[0]) * (bottom - top)

    def x_axis(self, label: str = "", *, integer: bool = False) -> None:
        """Ticks with grid lines below the plot area."""
        left, top, right, bottom = self._box
        for value in ticks(*self._x, count=max(2, int((right - left) / 55)), integer=integer):
            self.segment(self.x(value), top, self.x(value), bottom, "rule")
            self.text(self.x(value), bottom + 13, f"{value:,g}", "faint", "middle")
        if label:
            self.text((left + right) / 2, bottom + 28, label, "faint", "middle")

    def y_axis(self) -> None:
        """Ticks with grid lines to the left of the plot area."""
        left, top, right, bottom = self._box
        for value in ticks(*self._y, count=max(2, int((bottom - top) / 40))):
            self.segment(left, self.y(value), right, self.y(value), "rule")
            self.text(left - 5, self.y(value) + 4, f"{value:,g}", "faint", "end")

    def line(self, points: Sequence[tuple[float, float]], classes: str, tip: str) -> None:
        """A curve in units of the scales; a dot for a single point."""
        if len(points) == 1:
            self.dot(*points[0], classes.split()[0].replace("l", "f"), tip)
            return
        path = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        self._parts.append(f'<polyline class="{classes}" points="{path}">{_tip(tip)}</polyline>')

    def dot(self, x: float, y: float, classes: str, tip: str, radius: float = 2.6, opacity: float = 1.0) -> None:
        self._parts.append(
            f'<circle class="{classes}" cx="{self.x(x):.1f}" cy="{self.y(y):.1f}" r="{radius:g}"'
            f"{_opacity(opacity)}>{_tip(tip)}</circle>"
        )

    def bar(self, low: float, high: float, y: float, thick: float, classes: str, tip: str, opacity: float = 1) -> None:
        """A horizontal bar from low to high on the x scale, centred at y. thick: in units of the picture."""
        start, end = sorted((self.x(low), self.x(high)))
        self.box(start, self.y(y) - thick / 2, end - start, thick, classes, tip, opacity)

    def box(self, x: float, y: float, width: float, height: float, classes: str, tip: str, opacity: float) -> None:
        """A filled rectangle in units of the picture."""
        self._parts.append(
            f'<rect class="{classes}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
            f"{_opacity(opacity)}>{_tip(tip)}</rect>"
        )

    def segment(self, x1: float, y1: float, x2: float, y2: float, classes: str) -> None:
        """A line in units of the picture."""
        self._parts.append(f'<line class="{classes}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def text(
        self,
        x: float,
        y: float,
        words: str,
        classes: str = "",
        anchor: str = "start",
        *,
        turn: float = 0,
        tip: str = "",
    ) -> None:
        """Text at a position in units of the picture. turn: degrees; tip: tooltip, if it differs from the text."""
        style = f' class="{classes}"' if classes else ""
        place = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
        more = _tip(tip) if tip and tip != words else ""
        self._parts.append(
            f'<text{style} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{place}>{escape(words)}{more}</text>'
        )

    def panel(self) -> Panel:
        return Panel(self.title, self.width, self.height, "\n".join(self._parts))


def ticks(low: float, high: float, count: int = 5, integer: bool = False) -> list[float]:
    """About `count` round numbers (multiples of 1, 2 or 5 times a power of ten) between low and high."""
    low, high = sorted((low, high))
    if high <= low:
        return [low]
    power = 10.0 ** math.floor(math.log10((high - low) / count))
    step = next(power * factor for factor in (1, 2, 5, 10) if (high - low) / (power * factor) <= count)
    step = max(step, 1.0) if integer else step
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def text_width(words: str) -> float:
    """Estimated width of text. There is no font to measure, so the estimate is for a wide one."""
    return sum(map(_letter_width, words))


def _letter_width(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF":
        return 12.0
    if letter in "mMW%@":
        return 10.9
    if letter.isupper() or letter == "w":
        return 8.6
    return 4.6 if letter in " .,:;|'!()[]/fijlrt" else 7.0


def shortened(words: str, width: float) -> str:
    """Shorten text to about this width, in the middle, because names often differ at their ends."""
    for kept in range(len(words), 0, -1):
        end = kept * 2 // 5
        cut = words if kept == len(words) else f"{words[: kept - end]}…{words[len(words) - end :]}"
        if text_width(cut) <= width:
            return cut
    return "…"


def inline(panel: Panel) -> str:
    """A panel for a page that contains `CLASSES` and the colours."""
    return (
        f'<svg class="panel" role="img" aria-label="{escape(panel.title)}" '
        f'viewBox="0 0 {panel.width:g} {panel.height:g}" style="--w:{panel.width:g}">\n{panel.body}\n</svg>'
    )


def sheet(panels: Sequence[Panel], legend: Sequence[Key]) -> str:
    """All panels of a picture as a standalone SVG file, in light colours."""
    columns = min(3, len(panels))
    wide = max(panel.width for panel in panels) + 14
    right = wide * columns
    parts, x, y = [], 4.0, 18.0
    for key in legend:
        needed = 30 + text_width(key.label) + 16
        if x > 4 and x + needed > right:
            x, y = 4.0, y + 18
        parts.append(key_mark(key, x, y - 4))
        parts.append(f'<text x="{x + 30}" y="{y}">{escape(key.label)}</text>')
        x += needed
    bottom = y + 12 if legend else 6.0
    for first in range(0, len(panels), columns):
        line = panels[first : first + columns]
        for place, panel in enumerate(line):
            parts.append(f'<g transform="translate({place * wide + 4:g} {bottom:g})">\n{panel.body}\n</g>')
        bottom += max(panel.height for panel in line) + 12
    style = re.sub(r"var\(--(\w+)\)", lambda variable: LIGHT[variable[1]], CLASSES)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="panel" width="{right:g}" height="{bottom:g}" '
        f'viewBox="0 0 {right:g} {bottom:g}">\n<style>{style}</style>\n'
        f'<rect width="100%" height="100%" fill="{LIGHT["paper"]}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _open(scale: tuple[float, float]) -> tuple[float, float]:
    """A range of nonzero length."""
    return scale if scale[0] != scale[1] else (scale[0], scale[0] + 1)


def _tip(words: str) -> str:
    return f"<title>{escape(words)}</title>"


def _opacity(value: float) -> str:
    return "" if value >= 1 else f' fill-opacity="{value:.2f}"'
