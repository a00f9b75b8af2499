"""Rows of the results: the same text as ever in JSON and CSV, and read back or refused by name."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic_run import source_facts, target_facts, write_run

from prompttransfer.files.durable import write_csv
from prompttransfer.files.store import StageResult
from prompttransfer.methods import MethodResult
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.rows import EncodedRow, EncodedRows
from prompttransfer.models.scoring import Evaluation
from prompttransfer.report import read_results
from prompttransfer.runs.rows import SourceRow, TargetRow, csv_rows, read_row, row_of_csv
from prompttransfer.training.history import read_history

TASK = EncodedTask(
    name="goal",
    metrics=("accuracy", "f1"),
    train=EncodedRows.of([EncodedRow((1, 2), (3,), 0)] * 12),
    test=((1,),) * 20,
    leaked=3,
    skipped=1,
    unknown=2,
)
FOUND = Evaluation(predictions=[], score=87.5, more={"f1": 81.25}, majority=50.0, collapsed=False, rows=20)
ZERO_SHOT = Evaluation(predictions=[], score=62.25, more={"f1": 0.0}, majority=50.0, collapsed=True, rows=20)
RESULT = MethodResult(torch.zeros(2, 3), 6, 30, 240, 60, 12.34567, notes="merged: red")

# Written out by hand: what version 0.2 wrote into results.json and results.csv.
TARGET = (
    '{"method": "DTVG", "target": "goal", "seed": 7, "metric": "accuracy", "scoring": "first-token", "score": 87.5, '
    '"other_scores": {"f1": 81.25}, "majority": 50.0, "zero_shot": 62.25, "collapsed": false, "test_rows": 20, '
    '"train_rows": 12, "leaked_rows": 3, "skipped_rows": 1, "trainable_parameters": 6, "target_updates": 30, '
    '"target_examples": 240, "source_updates": 60, "seconds": 12.346, "notes": "merged: red; 2 of 32 texts of goal are '
    'mostly characters that this model\'s vocabulary lacks", "prompt": "prompts/DTVG/goal-seed7.safetensors"}'
)
SOURCE = (
    '{"source": "goal", "seed": 7, "metric": "accuracy", "scoring": "first-token", "score": 87.5, "other_scores": '
    '{"f1": 81.25}, "majority": 50.0, "zero_shot": 62.25, "collapsed": false, "test_rows": 20, "train_rows": 12, '
    '"leaked_rows": 3, "skipped_rows": 1, "updates": 60, "seconds": 9.0, "prompt": "prompts/sources/goal.safetensors"}'
)
CSV = (
    "method,target,seed,metric,scoring,score,score:f1,majority,zero_shot,collapsed,test_rows,train_rows,leaked_rows,"
    "skipped_rows,trainable_parameters,target_updates,target_examples,source_updates,seconds,notes\n"
    "DTVG,goal,7,accuracy,first-token,87.5,81.25,50.0,62.25,False,20,12,3,1,6,30,240,60,12.346,merged: red; 2 of 32 "
    "texts of goal are mostly characters that this model's vocabulary lacks\n"
)


def test_json_and_csv_are_those_of_before(tmp_path: Path) -> None:
    path = "prompts/DTVG/goal-seed7.safetensors"
    row = replace(TargetRow.of("DTVG", TASK, 7, RESULT, FOUND, ZERO_SHOT), prompt=path)
    assert json.dumps(row.facts()) == TARGET
    stage = StageResult({}, {"updates": 60, "seconds": 9.00001})
    source = replace(SourceRow.of(TASK, 7, stage, FOUND, ZERO_SHOT), prompt="prompts/sources/goal.safetensors")
    assert json.dumps(source.facts()) == SOURCE
    unkept = TargetRow.of("DTVG", TASK, 7, RESULT, FOUND, ZERO_SHOT)  # as in the studies: no file, no column for it
    write_csv(tmp_path / "results.csv", csv_rows([unkept]))
    text = (tmp_path / "results.csv").read_text()
    assert text == CSV
    assert row_of_csv(next(csv.DictReader(io.StringIO(text)))).facts() == unkept.facts() | {"other_scores": {}}


def test_rows_are_read_back() -> None:
    for text, kind in ((TARGET, TargetRow), (SOURCE, SourceRow)):
        row = read_row(json.loads(text), "here")
        assert type(row) is kind and json.dumps(row.facts()) == text


@pytest.mark.parametrize("facts", [target_facts("PT", "goal", 1, 70.0), source_facts("red")])
def test_a_field_that_is_missing_misnamed_or_wrong_is_named(facts: dict, tmp_path: Path) -> None:
    for name in facts:
        if name == "source":  # without it this is no source's row
            continue
        wrong = {key if key != name else f"{name}s": value for key, value in facts.items()}
        with pytest.raises(ValueError, match=f"^row.json: {name}: Field required"):
            read_row(wrong, "row.json")
    for name, value in {"score": "70", "collapsed": "no", "test_rows": -1, "seed": 1.5, "majority": None}.items():
        with pytest.raises(ValueError, match=f"^row.json: {name}: .*, got "):
            read_row(facts | {name: value}, "row.json")
    assert read_row(facts | {"later": 1}, "row.json") == read_row(facts, "row.json")


def test_a_run_with_a_bad_row_is_refused_by_name(tmp_path: Path) -> None:
    file = write_run(tmp_path / "run") / "results.json"
    content = json.loads(file.read_text())
    content["rows"][3]["scor"] = content["rows"][3].pop("score")
    content["sources"][1]["updates"] = "60"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError) as refused:
        read_results(file.parent)
    assert "results.json: not a result of `prompttransfer compare`: rows.3.score: Field required" in str(refused.value)
    assert "sources.1.updates: " in str(refused.value)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ({"loss": [[1, 2.0, 3.0]]}, "loss.0: "),
        ({"loss": [[1, "2"]]}, "loss.0.1: "),
        ({"groups": [[2, ["a"]], [1, []]]}, "groups: want increasing updates"),
        ({"similarity": {"names": ["a"], "matrix": [[1.0, 0.5]]}}, "similarity: want a matrix of 1 rows and columns"),
        ({"related": {"names": ["a"], "cosine": [0.5], "z": [], "level": 1.0}}, "related: want one cosine and one z"),
        ({"related": {"names": ["a"], "cosine": [0.5], "z": [2.0]}}, "related.level: Field required"),
        ([], "Input should be a valid dictionary"),
    ],
)
def test_histories_are_checked(history: object, message: str) -> None:
    with pytest.raises(ValueError, match=r"^h\.json: not the history of a run: ") as refused:
        read_history(history, "h.json: not the history of a run")
    assert message in str(refused.value)


def test_a_history_may_hold_more() -> None:
    history = {"loss": [[1, 2.0]], "groups": [[1, ["a"]]], "mine": {}}
    assert read_history(history, "") == {"loss": [[1, 2.0]], "groups": [(1, ["a"])]}
