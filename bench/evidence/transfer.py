"""When transfer helps: how many targets it hurts, and the gain over PT against the similarity of the sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats

from bench.evidence.studies import BASELINE
from prompttransfer.files.json_file import read_json
from prompttransfer.report import Results
from prompttransfer.report.statistics import Comparison
from prompttransfer.report.svg import Chart, Key, Picture
from prompttransfer.report.theme import SERIES

HARM = 2.0  # points below the baseline that count as hurt, beyond the noise of one target


@dataclass(frozen=True)
class Gain:
    """A method against PT on one target and seed, and the source whose sign test has the largest z there."""

    method: str
    target: str
    seed: int
    gain: float
    closest: str
    z: float
    level: float


def gains(results: Results) -> list[Gain]:
    """Of every finished row of a method that tests its sources."""
    scores = {(row.method, row.target, row.seed): row.score for row in results.rows}
    pairs = []
    for row in results.rows:
        path, baseline = results.folder / "history" / f"{row.name}.json", scores.get((BASELINE, row.target, row.seed))
        related = read_json(path).get("related") if path.is_file() else None
        if related is not None and baseline is not None:
            z, closest = max(zip(related["z"], related["names"], strict=True))
            pairs.append(Gain(row.method, row.target, row.seed, row.score - baseline, closest, z, related["level"]))
    return pairs


def gain_rows(pairs: Sequence[Gain]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table by target: its closest source, and the mean gain of every method."""
    methods = list(dict.fromkeys(pair.method for pair in pairs))
    lines = []
    for target in dict.fromkeys(pair.target for pair in pairs):
        here = [pair for pair in pairs if pair.target == target]
        seeds = {pair.seed: pair for pair in here}.values()
        related = sum(pair.z >= pair.level for pair in seeds)
        closest = dict.fromkeys(pair.closest for pair in seeds)
        mean = [fmean(pair.gain for pair in here if pair.method == method) for method in methods]
        lines.append(
            (
                fmean(pair.z for pair in seeds),
                [target, ", ".join(closest), f"{related} of {len(seeds)}", *(f"{gain:+.1f}" for gain in mean)],
            )
        )
    lines.sort(key=lambda line: -line[0])
    rows = [[target, closest, f"{z:.1f}", *rest] for z, (target, closest, *rest) in lines]
    return ["target", "closest source", "z", "related in", *methods], rows


def correlations(pairs: Sequence[Gain]) -> str:
    """Spearman's rank correlation of z and gain over targets and seeds, of every method; empty without pairs."""
    texts = []
    for method in dict.fromkeys(pair.method for pair in pairs):
        own = [pair for pair in pairs if pair.method == method]
        if len({pair.z for pair in own}) > 1 and len({pair.gain for pair in own}) > 1:
            rank = stats.spearmanr([pair.z for pair in own], [pair.gain for pair in own])
            texts.append(f"{method} {rank.statistic:.2f} (p {rank.pvalue:.3f}, {len(own)} pairs)")
    return ", ".join(texts)


def gain_picture(pairs: Sequence[Gain], methods: Sequence[str]) -> Picture:
    """Gain over PT against the largest z, a dot for every target and seed. methods: in the order of the colours."""
    reach = max((abs(pair.gain) for pair in pairs), default=1.0) * 1.1 or 1.0
    low, high = (limit(pair.z for pair in pairs) for limit in (min, max))
    edge = 0.05 * (high - low)
    chart = Chart("Gain and similarity", 460, 300, (low - edge, high + edge), (-reach, reach))
    chart.x_axis("largest z of a source")
    chart.y_axis()
    chart.segment(chart.x(low - edge), chart.y(0), chart.x(high + edge), chart.y(0), "axis")
    level = pairs[0].level
    if low < level < high:
        chart.segment(chart.x(level), chart.y(-reach), chart.x(level), chart.y(reach), "ink dash")
    for pair in pairs:
        tip = f"{pair.method} on {pair.target}, seed {pair.seed}: {pair.gain:+.1f}, z {pair.z:.1f} ({pair.closest})"
        chart.dot(pair.z, pair.gain, f"f{methods.index(pair.method) % SERIES}", tip, radius=3.2, opacity=0.75)
    keys = [Key(f"f{methods.index(name) % SERIES}", name) for name in dict.fromkeys(pair.method for pair in pairs)]
    return Picture(
        "gain",
        "Which source helps: gain and similarity",
        "Points above PT (up) or below it, against the largest z of a source in the sign test. A dot is a target and "
        "seed. Dashed: from this z on, a source is related and joins.",
        (chart.panel(),),
        (*keys, Key("ink dash", "level of the test")),
    )


def harm_rows(compared: Sequence[Comparison]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of how many targets a method hurts."""
    lines = []
    for comparison in compared:
        intervals = list(comparison.targets.values())
        worst, interval = min(comparison.targets.items(), key=lambda each: each[1].mean)
        lines.append(
            [
                comparison.method,
                str(len(intervals)),
                str(sum(each.mean > 0 for each in intervals)),
                str(sum(each.mean < 0 for each in intervals)),
                str(sum(each.mean < -HARM for each in intervals)),
                str(sum(each.high is not None and each.high < 0 for each in intervals)),
                f"{worst} {interval.mean:+.1f}",
            ]
        )
    head = ["method", "targets", "above PT", "below PT", f"below by more than {HARM:g}", "CI below 0", "worst target"]
    return head, lines
