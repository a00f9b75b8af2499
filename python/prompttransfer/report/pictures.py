"""The pictures of a report, with their captions."""

from __future__ import annotations

from dataclasses import dataclass

from prompttransfer.report import figures
from prompttransfer.report.results import Results
from prompttransfer.report.svg import Key, Panel, sheet
from prompttransfer.report.traces import read_traces

ABOUT_INTERVALS = (
    "Mean differences with their 95 % confidence intervals: over seeds, for another draw of training rows on the same "
    "targets; over targets and seeds, for other targets of this kind. Lines that reach the frame are cut there."
)


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


def pictures(results: Results) -> list[Picture]:
    """All pictures for which the results have data."""
    traces = read_traces(results)
    drawn = [
        Picture(
            "scores",
            "Scores by target",
            "Black lines on the bars: the standard deviation over seeds. Pale bars: collapsed. ↓: lower is better.",
            tuple(figures.scores(results)),
            figures.SCORE_KEYS,
        ),
        Picture(
            "differences",
            "Difference to PT",
            ABOUT_INTERVALS,
            tuple(figures.differences(results.differences, "PT")),
            figures.DIFFERENCE_KEYS,
        ),
        Picture(
            "learning",
            "Learning curves",
            "Training loss (nats) on the target's rows, mean over seeds; long runs averaged over neighbouring updates. "
            "SPoT and DTVG spend their first updates on the target's own prompt and the rest on the transfer.",
            tuple(figures.learning_curves(results, traces)),
            figures.method_keys(results),
        ),
        Picture(
            "similarity",
            "Task similarity",
            "Cosine of the task vectors P - P_init, mean over seeds. Blue: above 0; red: below.",
            tuple(figures.similarity(results, traces)),
        ),
        Picture(
            "groups",
            "DTVG's groups",
            "Blue: the share of seeds that merge the source at this update; per cent: of all updates.",
            tuple(figures.groups(results, traces)),
        ),
        Picture(
            "particles",
            "BMTPT's particles",
            "Mean distance between particles and bandwidth of the SVGD kernel in the source stage; mean over seeds.",
            tuple(figures.particles(results, traces)),
        ),
        Picture(
            "attention",
            "Attention over prompts",
            "Weight of every prompt, or its mean over training rows; own: the prompt of the target itself.",
            tuple(figures.attention(results, traces)),
        ),
    ]
    return [picture for picture in drawn if picture.panels]
