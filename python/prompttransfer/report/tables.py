"""The tables of a run as text: a head and rows of strings, for pages, Markdown and the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median

from prompttransfer.report.results import Cell, Results
from prompttransfer.report.statistics import Comparison, interval_text, mean_heads
from prompttransfer.runs.rows import ScoredRow
from prompttransfer.tasks.scales import scale_of
from prompttransfer.training.history import Related

Table = tuple[list[str], list[list[str]]]
BASELINES = ("zero-shot", "majority")
_FEW = 50  # test rows; with fewer, each counts more than 2 %


def few_rows(results: Results) -> str:
    """A warning if a target is scored on few rows; else empty."""
    fewest = min((row.test_rows for row in results.rows if row.test_rows), default=_FEW)
    return "" if fewest >= _FEW else f"Few {results.judged_on} rows: each of {fewest} counts {100 / fewest:.3g} %"


def score_text(cell: Cell | None) -> str:
    """Format a score as "87.5", or "87.5 ± 0.8" over seeds. A dagger marks a collapsed prediction."""
    if cell is None:
        return "-"
    spread = "" if cell.std is None else f" ± {cell.scale.text(cell.std)}"
    return f"{cell.scale.text(cell.score)}{spread}{' †' if cell.collapsed else ''}"


def mean_name(results: Results) -> str:
    """Name of the mean: "mean", "mean of accuracy, f1", or "mean (2 of 3 targets)"."""
    metrics = dict.fromkeys(results.metrics[target] for target in results.averaged)
    name = "mean" if len(metrics) <= 1 else f"mean of {', '.join(metrics)}"
    all_of_them = len(results.averaged) == len(results.targets)
    return name if all_of_them else f"{name} ({len(results.averaged)} of {len(results.targets)} targets)"


def mean_text(results: Results, value: float | None) -> str:
    """Format a mean over targets on their scale."""
    return "-" if value is None else results.scale.text(value)


def overview_rows(results: Results) -> Table:
    """Scores by method and target, with the two baselines."""
    several = len(set(results.metrics.values())) > 1
    names = [f"{name} ({metric_name(metric)})" if several else name for name, metric in results.metrics.items()]
    grid = [["method", *names, mean_name(results)]]
    for method in results.methods:
        scores = [score_text(results.cell(method, target)) for target in results.targets]
        grid.append([method, *scores, mean_text(results, results.mean(method))])
    for name in BASELINES:
        grid.append([name, *baseline_texts(results, name)])
    if not results.averaged:
        grid = [line[:-1] for line in grid]
    return _by_target(grid, len(results.targets), len(results.methods))


def difference_rows(comparisons: Sequence[Comparison]) -> Table:
    """Differences to the baseline by target, their means, and won/tied/lost pairs."""
    targets = list(dict.fromkeys(target for comparison in comparisons for target in comparison.targets))
    grid = [["method", *targets, *mean_heads("mean")]]
    grid += [[each.method, *map(each.text, targets), *each.mean_texts()] for each in comparisons]
    return _by_target(grid, len(targets), len(comparisons))


def _by_target(grid: list[list[str]], targets: int, methods: int) -> Table:
    """Head and rows of a table of methods, transposed if there are many more targets than methods."""
    if methods and targets > max(6, methods):
        grid = [list(line) for line in zip(*grid, strict=True)]
        grid[0][0] = "target"
    return grid[0], grid[1:]


def in_short(results: Results) -> str:
    """One line that lists the methods above and below PT; empty if there are no intervals."""
    groups: dict[str, list[str]] = {"better than PT": [], "worse than PT": [], "no clear difference from PT": []}
    for comparison in results.differences:
        mean = comparison.over_seeds
        if mean is None or mean.low is None or mean.high is None:
            continue
        low, high = (-mean.high, -mean.low) if comparison.scale.lower_is_better else (mean.low, mean.high)
        group = "better than PT" if low > 0 else "worse than PT" if high < 0 else "no clear difference from PT"
        groups[group].append(f"{comparison.method} {interval_text(mean, comparison.scale.digits)}")
    summary = "; ".join(f"{what}: {', '.join(methods)}" for what, methods in groups.items() if methods)
    return f"Mean over the targets, 95 % CI over seeds: {summary}" if summary else ""


def leaderboard_rows(results: Results) -> Table:
    """Methods by mean score, starting with the best: score, difference to PT, and collapsed runs."""
    differences = {comparison.method: comparison.mean_texts() for comparison in results.differences}
    sign = 1 if results.scale.lower_is_better else -1
    means = {method: results.mean(method) for method in results.methods}
    rows = []
    for method, mean in sorted(means.items(), key=lambda item: (item[1] is None, sign * (item[1] or 0.0))):
        collapsed = [row.collapsed for row in results.rows if row.method == method]
        collapse = f"{sum(collapsed)} of {len(collapsed)}" if any(collapsed) else "no"
        rows.append([method, mean_text(results, mean), *differences.get(method, [""] * 3), collapse])
    rows += [[name, baseline_texts(results, name)[-1], *[""] * 4] for name in BASELINES]
    return ["method", mean_name(results), *mean_heads("difference to PT"), "collapsed"], rows


def fact_rows(cells: Sequence[Cell]) -> Table:
    """Every score with its baselines and its cost, and other metrics if there are any."""
    head = ["target", "method", "score", "majority", "zero-shot", "collapsed", "metric", "other metrics", "scoring"]
    head += ["test rows", "train rows", "seeds", "updates", "parameters", "seconds"]
    rows = [
        [
            cell.first.target,
            cell.first.method,
            score_text(cell),
            cell.scale.text(cell.mean("majority")),
            cell.scale.text(cell.mean("zero_shot")),
            f"{cell.collapsed} of {len(cell.rows)}" if cell.collapsed else "no",
            metric_name(cell.first.metric),
            ", ".join(f"{metric} {scale_of(metric).text(value)}" for metric, value in cell.other.items()),
            cell.first.scoring,
            f"{cell.first.test_rows:,}",
            f"{cell.first.train_rows:,}",
            str(len(cell.rows)),
            f"{cell.first.target_updates:,}",
            f"{cell.first.trainable_parameters:,}",
            f"{cell.mean('seconds'):.0f}",
        ]
        for cell in cells
    ]
    if not any(cell.other for cell in cells):
        place = head.index("other metrics")
        head, *rows = ([*line[:place], *line[place + 1 :]] for line in (head, *rows))
    return head, rows


def cost_rows(results: Results) -> Table:
    """Cost of every method for one target and seed."""
    head = ["method", "parameters", "target updates", "target rows read", "source updates", "seconds on the target"]
    lines = []
    for method in results.methods:
        rows = [row for row in results.rows if row.method == method]
        counts = [
            (row.trainable_parameters, row.target_updates, row.target_examples, row.source_updates) for row in rows
        ]
        seconds = median(row.seconds for row in rows)
        lines.append([method, *map(_range, zip(*counts, strict=True)), f"{seconds:.1f}"])
    return head, lines


def source_rows(results: Results) -> Table:
    """The source prompts."""
    head = ["source", "seed", "score", "majority", "zero-shot", "collapsed", "test rows", "train rows", "updates"]
    rows = []
    for row in results.sources:
        scale = scale_of(row.metric)
        rows.append(
            [
                row.source,
                str(row.seed),
                *map(scale.text, (row.score, row.majority, row.zero_shot)),
                "yes" if row.collapsed else "no",
                f"{row.test_rows:,}",
                f"{row.train_rows:,}",
                f"{row.updates:,}",
            ]
        )
    return head, rows


def left_out_rows(results: Results) -> Table:
    """Tasks with omitted rows, which overlap with scored rows or do not fit the task."""
    rows_of: dict[tuple[str, str], list[ScoredRow]] = {}
    for row in results.rows:
        rows_of.setdefault((row.target, "target"), []).append(row)
    for source in results.sources:
        rows_of.setdefault((source.source, "source"), []).append(source)
    lines = []
    for names, rows in rows_of.items():
        counts = [row.leaked_rows for row in rows], [row.skipped_rows for row in rows]
        if any(map(any, counts)):
            lines.append([*names, *map(_range, counts)])
    return ["task", "as", "leaked", "skipped"], lines


def related_rows(results: Results) -> Table:
    """The sign-flip test of every source against every target: means over the seeds, and the number of seeds passed."""
    lines = []
    for target, tests in _tests(results).items():
        for place, source in enumerate(tests[0]["names"]):
            z, cosine = (fmean(test[name][place] for test in tests) for name in ("z", "cosine"))
            level = fmean(test["level"] for test in tests)
            passed = f"{_passed(tests, place)} of {len(tests)}"
            lines.append([target, source, f"{cosine:.2f}", f"{z:.1f}", f"{level:.1f}", passed])
    return ["target", "source", "cosine", "z", "level", "related in"], lines


def related_in_short(results: Results) -> str:
    """One line that names the related sources of every target; empty if no method tested them."""
    texts = []
    for target, tests in _tests(results).items():
        counts = {source: _passed(tests, place) for place, source in enumerate(tests[0]["names"])}
        seeds = len(tests)
        named = [name if n == seeds else f"{name} ({n} of {seeds} seeds)" for name, n in counts.items() if n]
        texts.append(f"{target}: {', '.join(named) or 'none, so the methods are PT there'}")
    return f"Related sources: {'; '.join(texts)}" if texts else ""


def _tests(results: Results) -> dict[str, list[Related]]:
    """Tests of every target that has some, one per seed. All methods of a run test the same prompts."""
    by_target = {}
    for target in results.targets:
        for method in results.methods:
            tests = [history["related"] for history in results.histories(method, target) if "related" in history]
            if tests:
                by_target[target] = tests
                break
    return by_target


def _passed(tests: Sequence[Related], place: int) -> int:
    """Number of tests in which a source is related."""
    return sum(test["z"][place] >= test["level"] for test in tests)


def note_rows(results: Results) -> Table:
    """Notes of the methods about their runs. Equal notes of several seeds share a line."""
    seeds: dict[tuple[str, str, str], list[str]] = {}
    for row in results.rows:
        if row.notes:
            seeds.setdefault((row.target, row.method, row.notes), []).append(str(row.seed))
    return ["target", "method", "note", "seeds"], [[*key, ", ".join(numbers)] for key, numbers in seeds.items()]


def metric_name(metric: str) -> str:
    """Name of a metric, with an arrow if lower is better."""
    return f"{metric} ↓" if scale_of(metric).lower_is_better else metric


def baseline_texts(results: Results, name: str) -> list[str]:
    """A baseline ("zero-shot" or "majority") on every target, then its mean."""
    values = {target: results.baseline(target, name.replace("-", "_")) for target in results.targets}
    texts = [scale_of(results.metrics[target]).text(value) for target, value in values.items()]
    mean = fmean(values[target] for target in results.averaged) if results.averaged else None
    return [*texts, mean_text(results, mean)]


def _range(values: Sequence[int]) -> str:
    """Format numbers as "9,216", or "3 to 5" if they differ."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
