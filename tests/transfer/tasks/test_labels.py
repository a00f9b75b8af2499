"""One label in many spellings and formats: one class, when labels are collected and when they are looked up."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from prompttransfer.tasks import load_task
from prompttransfer.tasks.cells import Misfit, label_of
from prompttransfer.tasks.labels import Labels
from prompttransfer.tasks.tables import read_rows

# Every spelling of a line is the label in front.
SPELLINGS: dict[str, list[Any]] = {
    "true": ["true", "True", "TRUE", " true ", True, np.True_],
    "false": ["false", "False", False, np.False_],
    "1": ["1", "1.0", "1.00", "+1", "1.", "1e0", "1E+0", "10e-1", 1, 1.0, np.int64(1), np.float32(1), Decimal("1.00")],
    "0": ["0", "0.0", "-0", "-0.0", "+0", "0e5", ".0", 0, -0.0, Decimal("-0.00")],
    "-3": ["-3", "-3.0", "-3.000", -3, -3.0],
    "100": ["100", "100.0", "1e2", 1e2],
    "0.1": ["0.1", "0.10", ".1", "+.1", "1e-1", 0.1, np.float32(0.1), np.float16(0.1), Decimal("0.100")],
    "0.00001": ["1e-05", "0.00001", 1e-05],
    "01": ["01", " 01"],
    "007.50": ["007.50"],
    "very good": [" very  good ", "very\u00a0good", "very\u2003good\u00a0", "\ufeffvery good", "very good\u200b"],
    "d\u00e9j\u00e0": ["d\u00e9j\u00e0", "de\u0301ja\u0300"],
    "Positive": ["Positive", "Positive "],
    "positive": ["positive"],
    "1_000": ["1_000"],
    "1,5": ["1,5"],
    "nan": ["nan"],
    "9" * 41: ["9" * 41],
    "1e999": ["1e999"],
    "v1.0": ["v1.0"],
}  # fmt: skip
EACH = [(label, spelling) for label, spellings in SPELLINGS.items() for spelling in spellings]


@pytest.mark.parametrize(("label", "spelling"), EACH)
def test_a_label_in_all_its_spellings(label: str, spelling: Any) -> None:
    assert label_of(spelling) == label == label_of(label)


def test_collected_and_looked_up_by_one_rule() -> None:
    values = [spelling for _, spelling in EACH]
    known = Labels.of_values(values, "here")
    assert set(known.choices) == set(SPELLINGS)
    assert [known.choices[known(spelling)] for spelling in values] == [label for label, _ in EACH]
    answers = Labels.of_mapping({label: f"answer {label}" for label in SPELLINGS})
    assert [answers.choices[answers(spelling)] for spelling in values] == [f"answer {label}" for label, _ in EACH]
    names = list(SPELLINGS)
    assert [names[Labels.of_choices(names, values)(spelling)] for spelling in values] == [label for label, _ in EACH]
    with pytest.raises(Misfit, match="got nothing"):
        label_of("\u200b")


@pytest.mark.parametrize(
    ("values", "choices"),
    [
        (["10", "9.5", "-1.5", "-0.5", "2"], ("-1.5", "-0.5", "2", "9.5", "10")),
        ([True, False, "1", "0"], ("0", "1")),
        (["True", 0, 1], ("0", "1")),
        (["true", "0"], ("0", "true")),
        (["true", "0", "maybe"], ("0", "maybe", "true")),
    ],
)
def test_order_of_numbers_and_truths(values: list[Any], choices: tuple[str, ...]) -> None:
    known = Labels.of_values(values, "here")
    assert known.choices == choices
    assert [known.choices[known(value)] for value in values if isinstance(value, bool)] == [
        "01"[value] if "1" in choices else label_of(value) for value in values if isinstance(value, bool)
    ]


def parquet(folder: Path, labels: pa.Array) -> Path:
    texts = [f"parquet row {n}" for n in range(len(labels))]
    pq.write_table(pa.table({"text": texts, "label": labels}), folder / "c.parquet")
    return folder / "c.parquet"


FORMATS = {
    "truths": (["True", "False"], [True, False], pa.array([True, False]), ("false", "true")),
    "whole numbers": (["1", "0"], [1.0, 0.0], pa.array([1, 0], pa.int8()), ("0", "1")),
    "floats": (["0.10", "2.00"], [0.1, 2], pa.array([0.1, 2], pa.float32()), ("0.1", "2")),
    "half floats": (["0.10", "2.00"], [0.1, 2], pa.array(np.array([0.1, 2], np.float16)), ("0.1", "2")),
    "decimals": (["0.1", "2"], [0.1, 2], pa.array([Decimal("0.10"), Decimal("2.00")]), ("0.1", "2")),
    "accents": (["\u00e9", "b"], ["e\u0301", "b "], pa.array(["e\u0301", "b"]), ("b", "\u00e9")),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_one_data_set_of_three_formats(name: str, tmp_path: Path) -> None:
    in_csv, in_json, in_parquet, choices = FORMATS[name]
    rows = "".join(f"csv row {n},{in_csv[n % 2]}\n" for n in range(10))
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    lines = [json.dumps({"text": f"json row {n}", "label": in_json[n % 2]}) for n in range(10)]
    (tmp_path / "b.jsonl").write_text("\n".join(lines), encoding="utf-8")
    parquet(tmp_path, pa.concat_arrays([in_parquet] * 5))
    description = tmp_path / "all.yaml"
    mapped = json.dumps({label: f"answer {place}" for place, label in enumerate(in_csv)})
    for files in ("[a.csv, b.jsonl, c.parquet]", "[c.parquet, b.jsonl, a.csv]"):
        for more, wanted in (("", choices), (f"choices: {mapped}\n", ("answer 0", "answer 1"))):
            description.write_text(f"train: {files}\n{more}", encoding="utf-8")
            task = load_task(str(description))
            assert task.choices == wanted
            answers = {row["raw"]: task.choices[row["label"]] for split in (task.train, task.test) for row in split}
            first = wanted[0] if more else next(label for label in choices if label == label_of(in_csv[0]))
            for text, answer in answers.items():
                assert (answer == first) == (int(text.split()[2]) % 2 == 0)


def test_floats_of_arrow_are_as_short_as_they_are_written(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", "b"], "label": pa.array([0.1, None], pa.float32()), "exact": [0.1, 0.25]})
    pq.write_table(table, tmp_path / "a.parquet")
    first, second = (row.cells for row in read_rows(tmp_path / "a.parquet", ("text", "label", "exact")))
    assert first == {"text": "a", "label": 0.1, "exact": 0.1}
    assert second == {"text": "b", "label": None, "exact": 0.25}


def test_names_of_classes_are_labels_too(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["False", "True"])})
    rows = {"text": [f"row {n} of a data set" for n in range(20)], "label": [n % 2 for n in range(20)]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    lines = "".join(json.dumps({"text": f"line {n} of a file", "label": n % 2 == 1}) + "\n" for n in range(20))
    (tmp_path / "b.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "all.yaml").write_text("train: [a.parquet, b.jsonl]\n", encoding="utf-8")
    task = load_task(str(tmp_path / "all.yaml"))
    assert task.choices == ("false", "true")
    assert all(row["label"] == int(row["raw"].split()[1]) % 2 for row in task.train)


def test_what_is_worth_telling_about_labels(tmp_path: Path) -> None:
    notes: list[str] = []
    progress = type("Progress", (), {"note": lambda self, text: notes.append(text)})()
    words = ["Positive", "negative", "positive", "Negative ", "1.1", "1.10"]
    rows = "".join(f"row {n} of all,{words[n % 6]}\n" for n in range(60))
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    for _ in range(2):  # rendered, and read back
        load_task(str(tmp_path / "a.csv"), progress=progress)
    hint = "(choices in a YAML description can give them one answer)"
    assert notes == 2 * [
        "a: labels '1.1', '1.10' are read as one",
        f"a: labels 'Positive', 'positive' differ only in case and count as different {hint}",
        f"a: labels 'negative', 'Negative' differ only in case and count as different {hint}",
    ]
    notes.clear()
    load_task(str(tmp_path / "a.csv"), choices={"positive": "yes", "negative": "no", "1.1": "no"}, progress=progress)
    assert notes == []


def test_an_answer_for_each_label(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"row {n},{n % 2}.0\n" for n in range(20)))
    (tmp_path / "a.yaml").write_text("train: a.csv\nchoices: {1: a, '1.0': b, 0: c}\n")
    with pytest.raises(ValueError, match="label '1' is given twice, with the answers 'a' and 'b'"):
        load_task(str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("train: a.csv\nchoices: {1: a, '1.0': a, 0: c}\n")
    assert load_task(str(tmp_path / "a.yaml")).choices == ("a", "c")
    with pytest.raises(Misfit, match=r"got label '1\.10', want one of '2'"):
        Labels.of_choices(["1.1", "1.10", "2"], ["2", "1.1"])("1.10")
