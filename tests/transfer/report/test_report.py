"""The report of a synthetic run."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import stdev
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console
from synthetic_run import METHODS, TARGETS, write_run

from prompttransfer.report import pictures, read_results, write_report
from prompttransfer.report.svg import shortened, text_width, ticks
from prompttransfer.report.tables import (
    cost_rows,
    fact_rows,
    in_short,
    leaderboard_rows,
    left_out_rows,
    note_rows,
    overview_rows,
    related_in_short,
    related_rows,
)
from prompttransfer.report.terminal import print_results
from prompttransfer.report.traces import mean_series, trace_of


class Page(HTMLParser):
    """Collects tags, their attributes, and the words of every table cell."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1] += data


def test_cells_are_means_over_seeds(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path / "run", seeds=(1, 2, 6)))
    cell = results.cell("DTVG", TARGETS[1])
    assert (
        cell
        and cell.score == pytest.approx(74.0)
        and cell.std == pytest.approx(stdev([1, 2, 6]))
        and [row.seed for row in cell.rows] == [1, 2, 6]
    )
    assert results.mean("DTVG") == pytest.approx(69.0)
    assert results.cell("MPT", TARGETS[0]) is None


def test_a_single_seed_has_no_deviation(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path / "run", seeds=(1,)))
    _, rows = overview_rows(results)
    assert rows[0] == ["PT", "61.0 †", "71.0", "66.0"]
    assert rows[-2:] == [["zero-shot", "62.2", "62.2", "62.2"], ["majority", "51.5", "51.5", "51.5"]]


def test_the_mean_waits_for_all_targets(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    content = json.loads((folder / "results.json").read_text())
    content["rows"] = content["rows"][:8]  # the second target has only its first method
    (folder / "results.json").write_text(json.dumps(content))
    results = read_results(folder)
    assert results.mean("PT") is not None and results.mean("DTVG") is None
    assert overview_rows(results)[1][1] == ["DTVG", "62.5 ± 0.7", "-", "-"]
    assert write_report(folder).is_file()


def test_every_score_carries_its_terms(tmp_path: Path) -> None:
    head, rows = fact_rows(read_results(write_run(tmp_path / "run")).cells())
    assert len(rows) == len(TARGETS) * len(METHODS)
    first = dict(zip(head, rows[0], strict=True))
    assert first["score"] == "61.5 ± 0.7 †" and first["majority"] == "51.5" and first["zero-shot"] == "62.2"
    assert first["collapsed"] == "2 of 2" and first["test rows"] == "1,200" and first["seeds"] == "2"
    assert first["updates"] == "30" and first["parameters"] == "9,216" and first["train rows"] == "32"


def test_report_is_one_page_with_its_pictures_inside(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    before = {path.name for path in folder.iterdir()}
    path = write_report(folder)
    assert path == folder / "report.html" and {path.name for path in folder.iterdir()} == before | {"report.html"}
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "img", "object"}
    assert [attributes["href"] for tag, attributes in page.tags if tag == "link"] == ["data:,"]
    assert not re.search(r"(src|href)=[\"']?(https?:|//)", text) and "url(" not in text and "@import" not in text
    assert "not finished" not in text
    names = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "aria-label" in attributes]
    assert names == [
        *("sst2 (accuracy)", "n<y>t (accuracy)", "Difference to PT", *TARGETS),
        *("Sources among themselves", "Targets with sources", "DTVG: sst2", "DTVG: n<y>t"),
        *("BMTPT: mean distance", "BMTPT: bandwidth of the kernel"),
    ]


def test_pictures_are_files_of_their_own(tmp_path: Path) -> None:
    drawn = pictures(read_results(write_run(tmp_path / "run")))
    assert [picture.name for picture in drawn] == [
        *("scores", "differences", "learning", "similarity", "groups", "particles")
    ]
    for picture in drawn:
        root = ElementTree.fromstring(picture.svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and "var(" not in picture.svg
        words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert {panel.title for panel in picture.panels} | {key.label for key in picture.legend} <= set(words)


def test_links_lead_to_the_prompts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    content = json.loads((folder / "results.json").read_text())
    content["rows"][0]["prompt"] = "javascript:alert(1)"
    (folder / "results.json").write_text(json.dumps(content))
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    links = [unquote(link) for link in links if link and not link.startswith("#")]
    kept = {row["prompt"] for row in content["rows"][1:]} | {row["prompt"] for row in content["sources"]}
    assert set(links) - kept == {"javascript:alert(1)"} and kept < set(links)
    assert not any((attributes.get("href") or "").startswith("javascript:") for _, attributes in page.tags)


def test_all_text_is_escaped(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert "<b>" not in text and "<amazon>" not in text and "&lt;b&gt;evil&lt;/b&gt;" in text
    assert TARGETS[1] not in text and TARGETS[1] in Page(text).cells


def test_unfinished_and_empty_runs_are_reported_as_such(tmp_path: Path) -> None:
    assert "not finished" in write_report(write_run(tmp_path / "cut", finished=False)).read_text(encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "results.json").write_text(json.dumps({"format": 1, "rows": [], "finished": False}))
    assert "not finished" in write_report(empty).read_text(encoding="utf-8")
    assert pictures(read_results(empty)) == []


def test_a_notebook_shows_the_leaderboard(tmp_path: Path) -> None:
    results = read_results(write_run(tmp_path / "run", finished=False))
    shown = results._repr_html_()
    head, rows = leaderboard_rows(results)
    assert Page(shown).cells == [*head, *(cell for row in rows for cell in row)]
    assert "not finished" in shown and "<html" not in shown and "<script" not in shown


def test_results_of_a_later_format_are_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    content = json.loads((folder / "results.json").read_text()) | {"format": 2}
    (folder / "results.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json: has format 2 of a later version.* reads up to 1; update"):
        read_results(folder)


def test_runs_without_histories_keep_the_scores(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for path in (folder / "history").iterdir():
        path.unlink()
    assert write_report(folder).is_file()
    assert [picture.name for picture in pictures(read_results(folder))] == ["scores", "differences"]


def test_the_leaderboard_ranks_by_the_mean(tmp_path: Path) -> None:
    head, rows = leaderboard_rows(read_results(write_run(tmp_path / "run")))
    assert head[:3] == ["method", "mean", "difference to PT, 95 % CI over seeds"]
    assert [row[0] for row in rows] == ["BMTPT", "DTVG", "PT", "zero-shot", "majority"]
    assert rows[0][1:] == ["68.5", "+2.0 [+2.0, +2.0]", "+2.0 [+2.0, +2.0]", "4/0/0", "no"]
    assert rows[2][1:] == ["66.5", "", "", "", "2 of 4"] and rows[3][1] == "62.2"
    # For an error rate, the lowest mean comes first.
    errors = write_run(tmp_path / "errors", metrics=dict.fromkeys(TARGETS, "ter"))
    assert [row[0] for row in leaderboard_rows(read_results(errors))[1]][:3] == ["PT", "DTVG", "BMTPT"]


def test_other_scores_are_averaged_as_they_are_and_rounded_when_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", targets=("a",), methods=("PT",), seeds=(1, 2))
    content = json.loads((folder / "results.json").read_text())
    exact = [{"f1": 81.26, "meteor": 0.4126}, {"f1": 81.34, "meteor": 0.4131}]
    for row, scores in zip(content["rows"], exact, strict=True):
        row["other_scores"] = scores
    (folder / "results.json").write_text(json.dumps(content))
    cell = read_results(folder).cell("PT", "a")
    assert cell.other == {"f1": pytest.approx(81.30), "meteor": pytest.approx(0.41285)}
    head, rows = fact_rows([cell])
    assert rows[0][head.index("other metrics")] == "f1 81.3, meteor 0.413"


def test_metrics_keep_their_scales_and_are_not_mixed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", targets=("a", "b", "c"), metrics={"b": "meteor", "c": "f1"})
    results = read_results(folder)
    head, rows = overview_rows(results)
    assert head == ["method", "a (accuracy)", "b (meteor)", "c (f1)", "mean of accuracy, f1 (2 of 3 targets)"]
    assert rows[1] == ["DTVG", "62.5 ± 0.7", "0.725 ± 0.007", "82.5 ± 0.7", "72.5"]
    assert rows[-2] == ["zero-shot", "62.2", "0.623", "62.2", "62.2"]
    facts = [
        dict(zip(*pair, strict=True))
        for pair in ((fact_rows(results.cells())[0], r) for r in fact_rows(results.cells())[1])
    ]
    assert (
        facts[3]["metric"] == "meteor"
        and facts[3]["majority"] == "0.515"
        and facts[3]["other metrics"] == "macro-f1 51.5"
    )
    text = write_report(folder).read_text(encoding="utf-8")
    assert "The mean leaves out targets on other scales: b." in text
    lone = read_results(write_run(tmp_path / "none", targets=("a", "b"), metrics={"a": "cider", "b": "ter"}))
    assert lone.mean("PT") is None and overview_rows(lone)[0] == ["method", "a (cider)", "b (ter ↓)"]
    assert write_report(lone.folder).is_file()


def test_costs_notes_and_rows_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    content = json.loads((folder / "results.json").read_text())
    content["rows"][0]["target_updates"] = 28
    content["rows"][0]["skipped_rows"] = 2
    (folder / "results.json").write_text(json.dumps(content))
    results = read_results(folder)
    assert cost_rows(results)[1] == [
        ["PT", "9,216", "28 to 30", "240", "60", "12.3"],
        ["DTVG", "9,216", "30", "240", "60", "12.3"],
        ["BMTPT", "9,216", "30", "240", "60", "12.3"],
    ]
    assert left_out_rows(results)[1] == [["sst2", "target", "3", "0 to 2"], ["n<y>t", "target", "3", "0"]]
    assert note_rows(results)[1] == [[target, "DTVG", "merged: <amazon>", "1, 2"] for target in TARGETS]


def test_many_targets_stand_below_each_other_and_wait_to_be_opened(tmp_path: Path) -> None:
    targets = [f"t{place}" for place in range(26)]
    folder = write_run(tmp_path / "run", targets=targets, methods=METHODS, updates=1000)
    results = read_results(folder)
    head, rows = overview_rows(results)
    assert head == ["target", *METHODS, "zero-shot", "majority"] and [row[0] for row in rows] == [*targets, "mean"]
    text = write_report(folder).read_text(encoding="utf-8")
    assert text.count("<summary>14 more</summary>") == 3 and len(text) < 1_000_000


def test_traces_are_means_over_seeds_and_thinned() -> None:
    assert mean_series([[[1, 2.0], [2, 4.0]], [[1, 4.0]]]) == [(1, 3.0), (2, 4.0)]
    assert mean_series([[[update, float(update)] for update in range(1, 8)]], points=3) == [(2, 2), (5, 5), (7, 7)]
    logs = [[[5, ["a"]], [6, ["a", "b"]]], [[5, []], [6, ["b"]]]]
    group_log = trace_of([{"groups": log} for log in logs]).groups
    assert group_log and group_log.edges == [5, 6, 7] and group_log.shares == {"a": [0.5, 0.5], "b": [0.0, 1.0]}
    matrices = [[[1.0, 0.2], [0.2, 1.0]], [[1.0, 0.4], [0.4, 1.0]]]
    similarity = trace_of([{"similarity": {"names": ["a", "b"], "matrix": matrix}} for matrix in matrices]).similarity
    assert similarity and similarity[0] == ["a", "b"]
    assert similarity[1].tolist() == pytest.approx(np.array([[1.0, 0.3], [0.3, 1.0]]))


@pytest.mark.parametrize(
    ("low", "high", "count", "wanted"),
    [(0, 100, 5, [0, 20, 40, 60, 80, 100]), (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]), (3, 3, 5, [3]), (0, 7e-3, 3, [0, 5e-3])],
)
def test_ticks_are_round(low: float, high: float, count: int, wanted: list[float]) -> None:
    assert ticks(low, high, count) == pytest.approx(wanted)
    assert ticks(0, 3, 10, integer=True) == [0, 1, 2, 3]


def test_names_are_cut_in_the_middle() -> None:
    assert shortened("short", 100) == "short" and shortened("anything", 1) == "…"
    cut = shortened("source-with-a-long-name-17", 100)
    assert cut.startswith("source-") and cut.endswith("-17") and text_width(cut) <= 100 and len(cut) < 26
    assert text_width("数据") > text_width("ab")


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_tables_are_complete(tmp_path: Path, width: int) -> None:
    console = Console(width=width, record=True, highlight=False, file=(tmp_path / "out").open("w"))
    print_results(read_results(write_run(tmp_path / "run", seeds=(1,))), console)
    text = console.export_text()
    assert all(part in text for part in (*METHODS, *TARGETS, "zero-shot", "majority", "9,216", "1,200", "collapsed:"))
    assert "…" not in text


def test_names_that_no_file_can_have_have_no_history(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", targets=["PLACE"])
    file = run / "results.json"
    content = file.read_text(encoding="utf-8")
    for name in ("long" * 100, "nul\\u0000"):
        file.write_text(content.replace("PLACE", name), encoding="utf-8")
        assert read_results(run).histories("PT", read_results(run).targets[0]) == []
        assert write_report(run).is_file()
    file.write_text(content.replace("PLACE", "half\\ud800"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"results\.json: .*half of a surrogate pair"):
        read_results(run)


def test_few_test_rows_are_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(1,))
    results = json.loads((run / "results.json").read_text())
    for rows, warned in ((60, False), (5, True)):
        results["rows"] = [row | {"test_rows": rows} for row in results["rows"]]
        (run / "results.json").write_text(json.dumps(results))
        console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
        print_results(read_results(run), console)
        assert ("Few test rows: each of 5 counts 20 %" in console.export_text()) == warned


def test_bad_run_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"not a run folder: it has no results\.json"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="no list of rows"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text('{"rows": [{"method": "PT", "target": "a", "seed": 1, "metric": "f1"}]}')
    with pytest.raises(ValueError, match=r"rows\.0\.score: Field required"):
        write_report(tmp_path)
    run = write_run(tmp_path / "run", seeds=(1,), targets=["a"])
    (run / "history" / "PT-a-seed1.json").write_text('{"loss": [[1, "low"]]}')
    with pytest.raises(ValueError, match=r"PT-a-seed1\.json: not the history of a run: loss\.0\.1: .*got 'low'"):
        write_report(run)
    (run / "history" / "PT-a-seed1.json").write_text('{"groups": [[2, ["a"]], [1, ["a"]]]}')
    with pytest.raises(ValueError, match=r"PT-a-seed1\.json: not the history of a run: .*want increasing updates"):
        write_report(run)


def test_the_sign_test_is_shown_by_target_and_source(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", seeds=(1, 2), targets=["a"])
    for seed, z in ((1, [3.9, 0.5]), (2, [3.7, 3.1])):
        test = {"names": ["s", "t"], "cosine": [0.4, 0.1 * seed], "z": z, "level": 3.0}
        (run / "history" / f"PT-a-seed{seed}.json").write_text(json.dumps({"related": test}))
    head, rows = related_rows(read_results(run))
    assert head == ["target", "source", "cosine", "z", "level", "related in"]
    assert rows == [["a", "s", "0.40", "3.8", "3.0", "2 of 2"], ["a", "t", "0.15", "1.8", "3.0", "1 of 2"]]
    assert related_in_short(read_results(run)) == "Related sources: a: s, t (1 of 2 seeds)"
    for seed in (1, 2):
        test = {"names": ["s"], "cosine": [0.1], "z": [0.5], "level": 3.0}
        (run / "history" / f"PT-a-seed{seed}.json").write_text(json.dumps({"related": test}))
    assert related_in_short(read_results(run)) == "Related sources: a: none, so the methods are PT there"
    assert related_in_short(read_results(write_run(tmp_path / "untested", seeds=(1,)))) == ""


@pytest.mark.parametrize("metric", ["accuracy", "ter"])
def test_one_line_says_what_is_shown(tmp_path: Path, metric: str) -> None:
    run = write_run(tmp_path / "run", seeds=(1, 2, 3), metrics=dict.fromkeys(TARGETS, metric))
    file = run / "results.json"
    content = json.loads(file.read_text())
    noise = {"DTVG": (3.0, 4.0, 5.0), "BMTPT": (-4.0, 0.0, 5.0)}
    for row in content["rows"]:
        plain = 60.0 + row["seed"]
        row["score"] = plain + noise.get(row["method"], (0.0, 0.0, 0.0))[row["seed"] - 1]
    file.write_text(json.dumps(content))
    summary = in_short(read_results(run))
    # DTVG: 4 with s = 1 on both targets, so s / sqrt(6) and t(0.975, 4) = 2.7764.
    better = "better" if metric == "accuracy" else "worse"
    assert summary.startswith(f"Mean over the targets, 95 % CI over seeds: {better} than PT: DTVG +4.0 [+2.9, +5.1]; ")
    assert "no clear difference from PT: BMTPT +0.3 [" in summary
    assert in_short(read_results(write_run(tmp_path / "one", seeds=(1,)))) == ""
