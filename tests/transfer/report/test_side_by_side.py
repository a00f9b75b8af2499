"""Runs side by side, against differences written out and scipy, and the command that writes the pages."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pytest
from scipy import stats
from synthetic_run import METHODS, TARGETS, write_run
from typer.testing import CliRunner

from prompttransfer.cli import app
from prompttransfer.report import write_comparison
from prompttransfer.report.side_by_side import Runs, mean_rows, read_runs, score_rows, setting_rows


def with_scores(folder: Path, scores: dict[tuple[str, str, int], float]) -> Path:
    content = json.loads((folder / "results.json").read_text())
    for row in content["rows"]:
        row["score"] = scores.get((row["method"], row["target"], row["seed"]), row["score"])
    (folder / "results.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Seeds 2 and 3 are common; on the first target the differences of PT are 2 and 5, of the others 1.5."""
    before = write_run(tmp_path / "before", (1, 2, 3))
    settings = {"mpt": {"rank": 2}, "output": "elsewhere", "report_to": "wandb"}  # the last two change no score
    after = write_run(tmp_path / "after", (2, 3, 4), plus=1.5, settings=settings)
    with_scores(after, {("PT", "sst2", 2): 64.0, ("PT", "sst2", 3): 68.0})
    return read_runs([before, after])


def test_differences_are_those_of_common_seeds(runs: Runs) -> None:
    comparison = runs.comparisons["after", "PT"]
    assert (
        comparison
        and set(comparison.targets) == set(TARGETS)
        and (comparison.wins, comparison.ties, comparison.losses) == (4, 0, 0)
    )
    interval = comparison.targets["sst2"]
    wanted = stats.ttest_1samp([2.0, 5.0], 0.0).confidence_interval()
    assert (interval.mean, interval.count) == (3.5, 2)
    assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high))
    assert comparison.over_seeds and comparison.over_seeds.mean == pytest.approx(fmean([1.75, 3.25]))
    assert ("after", "MPT") not in runs.comparisons


def test_tables_hold_every_run(runs: Runs) -> None:
    head, rows = score_rows(runs)
    assert head == ["target", "method", "metric", "before", "after", "after minus before"] and len(rows) == 6
    assert rows[0][3:5] == ["62.0 ± 1.0 †", "65.8 ± 2.0 †"] and rows[0][5].startswith("+3.5 [-15.6, +22.6] (2)")
    assert rows[4] == ["n<y>t", "DTVG", "accuracy", "73.0 ± 1.0", "75.5 ± 1.0", "+1.5 [+1.5, +1.5] (2)"]
    head, rows = mean_rows(runs)
    assert head[:4] == ["method", "before", "after", "after minus before, 95 % CI over seeds"]
    assert head[4:] == ["after minus before, 95 % CI over targets and seeds", "won/tied/lost"]
    assert rows[1] == ["DTVG", "68.0", "70.5", "+1.5 [+1.5, +1.5]", "+1.5 [+1.5, +1.5]", "4/0/0"]
    assert setting_rows(runs) == (["setting", "before", "after"], [["mpt.rank", "-", "2"]])


def test_what_was_judged_otherwise_is_not_compared(tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", (1,))
    fewer = write_run(tmp_path / "fewer", (1,))
    (fewer / "results.json").write_text(
        (fewer / "results.json").read_text().replace('"test_rows": 1200', '"test_rows": 7')
    )
    other = write_run(tmp_path / "other", (1,), metrics={"sst2": "f1"})
    later = write_run(tmp_path / "later", (5,), methods=("PT", "MPT"))
    runs = read_runs([first, fewer, other, later])
    _, rows = score_rows(runs)
    by_name = {(row[0], row[1]): row[-3:] for row in rows}
    assert by_name["sst2", "PT"] == [
        "not compared: 1200, 7 test rows",
        "not compared: accuracy, f1",
        "not compared: no common seed",
    ]
    assert by_name["n<y>t", "DTVG"] == ["not compared: 1200, 7 test rows", "+0.0 (1)", "-"]
    assert by_name["sst2", "MPT"] == ["-", "-", "-"]
    page = write_comparison([first, fewer], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No two rows can be compared" in page


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, (1,)) for name in ("a/run", "b/run", "b/other")]
    assert list(read_runs(folders).results) == ["a/run", "b/run", "b/other"]
    assert list(read_runs(folders[1:]).results) == ["run", "other"]
    with pytest.raises(ValueError, match="got 1, want at least two"):
        read_runs(folders[:1])
    with pytest.raises(ValueError, match="want different folders"):
        read_runs([folders[0], tmp_path / "a" / ".." / "a" / "run"])


def test_runs_of_equal_scores_have_an_axis_in_points(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, (1,)) for name in ("a", "b")]
    page = write_comparison(folders, tmp_path / "equal.html").read_text()
    assert "points above" in page and "e-09" not in page


def test_the_page_is_escaped_and_links_the_reports(runs: Runs, tmp_path: Path) -> None:
    folders = [results.folder for results in runs.results.values()]
    (folders[0] / "report.html").write_text("")
    text = write_comparison(folders, tmp_path / "deep" / "er" / "page.html").read_text(encoding="utf-8")
    assert TARGETS[1] not in text and "n&lt;y&gt;t" in text and "<script" not in text
    assert 'href="../../before/report.html"' in text and "after/report.html" not in text
    assert all(method in text for method in METHODS) and "mpt.rank" in text


def test_command(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call = CliRunner().invoke
    one = call(app, ["report", "before"])
    assert one.exit_code == 0 and "report: before/report.html" in one.stdout and "zero-shot" in one.stdout
    assert (tmp_path / "before" / "report.html").is_file()
    elsewhere = call(app, ["report", "before", "--output", "pages/one.html", "--quiet"])
    assert elsewhere.stdout == "pages/one.html\n"
    text = (tmp_path / "pages" / "one.html").read_text(encoding="utf-8")
    assert 'href="../before/prompts/PT/sst2-seed1.safetensors"' in text
    two = call(app, ["report", "before", "after"])
    assert two.exit_code == 0 and "report: comparison.html" in two.stdout and "mpt.rank" in two.stdout
    facts = json.loads(call(app, ["report", "before", "after", "--json"]).stdout)
    assert facts["report"] == "comparison.html" and list(facts["runs"]) == ["before", "after"]
    assert facts["differing_settings"] == [{"setting": "mpt.rank", "before": "-", "after": "2"}]
    assert facts["differences"][0]["targets"]["sst2"]["mean"] == 3.5
    assert json.loads(call(app, ["report", "before", "--json"]).stdout)["rows"]
    for arguments, words in ((["nowhere"], "not a run folder"), (["before", "before"], "want different folders")):
        bad = call(app, ["report", *arguments])
        assert bad.exit_code == 2 and words in bad.stderr and "Traceback" not in bad.stderr
