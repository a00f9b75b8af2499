"""Write the tables of docs/performance-{cpu,gpu}.md from the results of a run: no number is typed by hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from promptkernels.bench.measure import OURS, Measurement
from promptkernels.bench.report import Results, geometric_means
from promptkernels.bench.targets import outcomes

_DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def section(results: Results, pictures: Iterable[str] = ()) -> str:
    """Everything about one run, as markdown."""
    device = results.machine["device_type"]
    blocks = [f"## Measured: {_DEVICES[device]}, {results.machine['device']}", _machine(results)]
    if results.busy and (results.cases or results.step):
        blocks.append(f"**{results.busy}**")
    if results.cases:
        blocks += ["### Targets", _targets(results), _slower(results), "### All cases", *_tables(results)]
        blocks += ["```\n" + "\n".join(geometric_means(results.cases)) + "\n```"]
    if results.step:
        blocks += ["### Share of a training step", _steps(results)]
    if results.spread:
        blocks += ["### Error of the SVGD direction against the spread of its particles", _spreads(results)]
    blocks += [f"![{Path(picture).stem}]({picture})" for picture in pictures]
    return "\n\n".join(blocks)


def insert(results: Results, page: Path) -> None:
    """Replace the marked region of this device type in a page, or append it. Pictures go to figures/ next to the page.

    Raises:
        ValueError: the page does not exist.
    """
    if not page.is_file():
        raise ValueError(f"--into must name an existing page, got {page}")
    device = results.machine["device_type"]
    pictures: list[str] = []
    if find_spec("matplotlib"):
        from promptkernels.bench.figures import draw

        drawn = draw(results, page.parent / "figures", prefix=f"bench-{device}-")
        pictures = [path.relative_to(page.parent).as_posix() for path in drawn]
    begin, end = f"<!-- bench {device}: generated, do not edit -->", f"<!-- end of bench {device} -->"
    text = page.read_text(encoding="utf-8")
    before, marker, rest = text.partition(begin)
    after = rest.partition(end)[2] if marker else "\n"
    before = before if marker else before.rstrip("\n") + "\n\n"
    page.write_text(f"{before}{begin}\n\n{section(results, pictures)}\n\n{end}{after}", encoding="utf-8")


def _rows(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = list(head)
    lines = [cells, ["---"] * len(cells), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _machine(results: Results) -> str:
    facts = {name.replace("_", " "): str(value) for name, value in results.machine.items() if name != "device_type"}
    return _rows(("", ""), facts.items())


def _targets(results: Results) -> str:
    def cells() -> Iterator[tuple[str, ...]]:
        for outcome in outcomes(results.cases, results.machine["device_type"]):
            target = outcome.target
            sign = "<=" if target.at_most else ">="
            got = f"{outcome.got:.3g}{target.unit}"
            yield (
                target.subject,
                target.against,
                f"{sign} {target.wanted:g}{target.unit}",
                got if outcome.met else f"**{got}**",
                "yes" if outcome.met else "**no**",
                outcome.case,
            )

    head = ("operation", "against", "target", "measured (worst case, or mean)", "met", "case")
    return _rows(head, cells())


def _slower(results: Results) -> str:
    slower = [row for row in results.cases if row.kind == "peer" and row.ratio < 1]
    if not slower:
        return "No peer was faster than promptkernels in any case."
    lines = [f"- {row.case}, {row.mode}: {row.contestant} takes {row.ratio:.2f} of our time" for row in slower]
    return "\n".join(["Where a peer is faster:", "", *lines])


def _tables(results: Results) -> Iterator[str]:
    for op in dict.fromkeys(row.op for row in results.cases):
        rows = [row for row in results.cases if row.op == op]
        others = list(dict.fromkeys(row.contestant for row in rows if row.kind != "ours"))
        lines = []
        for case, mode in dict.fromkeys((row.case, row.mode) for row in rows):
            cells = {row.contestant: row for row in rows if (row.case, row.mode) == (case, mode)}
            ours = cells[OURS]
            lines.append(
                [
                    f"{case.removeprefix(f'{op} ')}{'' if mode == 'forward' else ', backward too'}",
                    f"{_time(ours.median_us)} ({_time(ours.p20_us)} to {_time(ours.p80_us)})",
                    f"{ours.gigabytes_per_second:g}",
                    f"{100 * ours.share_of_roofline:.0f} %",
                    f"{ours.error:.0e}",
                    _size(ours.peak_bytes),
                    *(_peer(cells[name]) if name in cells else "" for name in others),
                ]
            )
        head = ("case", f"{OURS}: median (p20 to p80)", "GB/s", "of roofline", "error", "peak memory", *others)
        yield f"#### {op}\n\n{_rows(head, lines)}"


def _peer(row: Measurement) -> str:
    if row.kind == "floor":
        return f"{_time(row.median_us)}; ours {1 / row.ratio:.2f} x"
    return f"{row.ratio:.2f} x (error {row.error:.0e}, {_size(row.peak_bytes)})"


def _steps(results: Results) -> str:
    head = ("method", "prompt made by", "step", "over plain prompt tuning", "prompt alone", "share of the step")
    return _rows(
        head,
        (
            (
                row.method,
                row.form,
                f"{row.step_ms:g} ms",
                f"{row.ratio:.3f} x",
                _time(row.prompt_us) if row.method != "PT" else "",
                f"{100 * row.share:.2g} %" if row.method != "PT" else "",
            )
            for row in results.step
        ),
    )


def _spreads(results: Results) -> str:
    names = list(dict.fromkeys(row.contestant for row in results.spread))
    errors = {(row.spread, row.contestant): row.error for row in results.spread}
    rows = []
    for spread in dict.fromkeys(row.spread for row in results.spread):
        row_errors = [errors[spread, name] for name in names]
        rows.append([f"{spread:.1e}", *("no number" if error is None else f"{error:.1e}" for error in row_errors)])
    return _rows(("spread", *names), rows)


def _time(microseconds: float) -> str:
    if microseconds < 1e3:
        return f"{microseconds:.3g} µs"
    return f"{microseconds / 1e3:.3g} ms" if microseconds < 1e6 else f"{microseconds / 1e6:.3g} s"


def _size(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1e5 else f"{size / 1e3:.3g} kB"
