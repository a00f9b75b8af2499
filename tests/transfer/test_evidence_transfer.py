"""When transfer helps: gains and similarities of known rows."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from synthetic_run import target_facts

from bench.evidence.transfer import correlations, gain_picture, gain_rows, gains, harm_rows
from prompttransfer.report import Results
from prompttransfer.report.statistics import comparisons
from prompttransfer.runs.rows import TargetRow

# target, seed -> score of PT, score of MPT, z of sources a and b
ROWS = {
    ("near", 1): (70.0, 78.0, (1.0, 3.6)),
    ("near", 2): (70.0, 74.0, (0.5, 3.2)),
    ("far", 1): (60.0, 60.0, (2.0, -1.0)),
    ("far", 2): (60.0, 57.6, (1.5, 0.0)),
    ("worse", 1): (50.0, 47.0, (2.5, 0.0)),
    ("worse", 2): (50.0, 46.8, (2.4, 0.0)),
}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    (tmp_path / "history").mkdir()
    rows = []
    for (target, seed), (plain, mpt, z) in ROWS.items():
        rows += [
            TargetRow(**target_facts("PT", target, seed, plain)),
            TargetRow(**target_facts("MPT", target, seed, mpt)),
        ]
        history = {"related": {"names": ["a", "b"], "cosine": [0.0, 0.0], "z": z, "level": 3.0}}
        (tmp_path / "history" / f"MPT-{target}-seed{seed}.json").write_text(json.dumps(history))
    return Results(tmp_path, rows)


def test_gains_beside_the_closest_source(results: Results) -> None:
    head, rows = gain_rows(gains(results))
    assert head == ["target", "closest source", "z", "related in", "MPT"]
    assert rows == [
        ["near", "b", "3.4", "2 of 2", "+6.0"],
        ["worse", "a", "2.5", "0 of 2", "-3.1"],
        ["far", "a", "1.8", "0 of 2", "-1.2"],
    ]


def test_rank_correlation(results: Results) -> None:
    # ranks of z: 6 5 2 1 4 3; of the gain: 6 5 4 3 2 1; so 1 - 6 * 16 / (6 * 35)
    assert correlations(gains(results)).startswith("MPT 0.54 (p ")
    assert correlations([]) == ""


def test_a_row_without_pt_or_without_a_test_has_no_gain(results: Results) -> None:
    results.rows.remove(next(row for row in results.rows if row.name == "PT-near-seed1"))
    (results.folder / "history" / "MPT-far-seed2.json").write_text("{}")
    assert {(pair.target, pair.seed) for pair in gains(results)} == set(ROWS) - {("near", 1), ("far", 2)}


def test_hurt_targets(results: Results) -> None:
    head, rows = harm_rows(comparisons(results.rows))
    assert head[1:] == ["targets", "above PT", "below PT", "below by more than 2", "CI below 0", "worst target"]
    # far: 0 and -2.4 have an interval of (-16.4, 14.0); worse: -3.0 and -3.2 one of (-4.4, -1.8)
    assert rows == [["MPT", "3", "1", "2", "1", "1", "worse -3.1"]]


def test_the_picture_has_a_dot_for_every_pair(results: Results) -> None:
    picture = gain_picture(gains(results), results.methods)
    dots = ElementTree.fromstring(picture.panels[0].body.join(("<g>", "</g>"))).findall("circle")
    assert len(dots) == len(ROWS) and {dot.get("class") for dot in dots} == {"f1"}
    heights = {float(dot.get("cy") or 0) for dot in dots}
    assert len(heights) == len(ROWS) and "related and joins" in picture.caption
