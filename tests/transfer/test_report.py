"""The report of a made-up run."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from statistics import stdev

import pytest
from rich.console import Console
from synthetic_run import METHODS, TARGETS, write_run

from prompttransfer.report import read_results, write_report
from prompttransfer.report.results import fact_rows, overview_rows
from prompttransfer.report.terminal import print_results

PICTURES = {"scores.png", "differences.png", "learning.png", "similarity.png", "groups.png", "particles.png"}


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
        cell and cell.score == pytest.approx(74.0) and cell.std == pytest.approx(stdev([1, 2, 6])) and cell.seeds == 3
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
    path = write_report(folder)
    assert path == folder / "report.html"
    assert {file.name for file in folder.glob("*.png")} == PICTURES
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(PICTURES) and all(src and src.startswith("data:image/png;base64,") for src in images)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe"}
    assert not re.search(r"(src|href)=[\"']?https?:", text) and "url(" not in text
    assert "not finished" not in text


def test_all_text_is_escaped(tmp_path: Path) -> None:
    text = write_report(write_run(tmp_path / "run")).read_text(encoding="utf-8")
    assert "<b>" not in text and "&lt;b&gt;evil&lt;/b&gt;" in text
    assert TARGETS[1] not in text and TARGETS[1] in Page(text).cells


def test_unfinished_and_empty_runs_are_reported_as_such(tmp_path: Path) -> None:
    assert "not finished" in write_report(write_run(tmp_path / "cut", finished=False)).read_text(encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "results.json").write_text(json.dumps({"format": 1, "rows": [], "finished": False}))
    assert "not finished" in write_report(empty).read_text(encoding="utf-8")
    assert not list(empty.glob("*.png"))


def test_runs_without_histories_keep_the_scores(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    for path in (folder / "history").iterdir():
        path.unlink()
    write_report(folder)
    assert {file.name for file in folder.glob("*.png")} == {"scores.png", "differences.png"}


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_tables_are_complete(tmp_path: Path, width: int) -> None:
    console = Console(width=width, record=True, highlight=False, file=(tmp_path / "out").open("w"))
    print_results(read_results(write_run(tmp_path / "run", seeds=(1,))), console)
    text = console.export_text()
    assert all(part in text for part in (*METHODS, *TARGETS, "zero-shot", "majority", "9,216", "1,200", "collapsed:"))
    assert "…" not in text


def test_bad_run_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"not a run folder: it has no results\.json"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(ValueError, match="no list of rows"):
        write_report(tmp_path)
