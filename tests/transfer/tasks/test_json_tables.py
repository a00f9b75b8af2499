"""JSON files as pandas and people write them, and what an error shows of their content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prompttransfer.files.excerpt import listed, shown
from prompttransfer.tasks import check_name, load_task
from prompttransfer.tasks.cells import pick
from prompttransfer.tasks.tables import Row, read_rows

COUNT = 3000
FRAME = pd.DataFrame(
    {"text": [f"review {n}" for n in range(COUNT)], "label": ["neg", "pos"] * (COUNT // 2), "more": range(COUNT)}
)


def read(path: Path, content: Any, columns: tuple[str, ...] = ("text", "label")) -> list[Row]:
    path.write_text(json.dumps(content), encoding="utf-8")
    return list(read_rows(path, columns))


@pytest.mark.parametrize("index", [None, "names"])
@pytest.mark.parametrize("orient", ["records", "columns", "index", "split", "table"])
def test_orientations_of_pandas(orient: str, index: str | None, tmp_path: Path) -> None:
    frame = FRAME.set_index(pd.Index([f"id {n}" for n in range(COUNT)])) if index else FRAME
    path = tmp_path / "a.json"
    frame.to_json(path, orient=orient)
    rows = list(read_rows(path, ("text", "label")))
    assert not any(row.problem for row in rows)
    assert [(row.cells["text"], row.cells["label"]) for row in rows] == [
        *zip(FRAME["text"], FRAME["label"], strict=True)
    ]
    task = load_task(str(path))
    assert len(task.train) + len(task.validation) + len(task.test) == COUNT and task.choices == ("neg", "pos")


def test_rows_without_names_of_columns(tmp_path: Path) -> None:
    FRAME.to_json(tmp_path / "a.json", orient="values")
    with pytest.raises(ValueError, match=r"row 1: got list, want an object with named columns, as .*orient='records'"):
        load_task(str(tmp_path / "a.json"))


WRONG = {
    "index": ({str(n): {"body": "x" * 500, "stars": 1} for n in range(COUNT)}, r"got an object of '0', .* 2988 more"),
    "split": ({"columns": ["body", "stars"], "data": [["x", 1]]}, r"there is no column 'text', only 'body', 'stars'"),
    "short rows": ({"columns": ["text", "label"], "data": [["x"]]}, "row 1: got 1 cells, want one for each of 2"),
    "one object": ({"body": "x" * 5000, "stars": 1}, r"got an object of 'body', 'stars', want an array of objects"),
    "columns of splits": ({"train": {"text": ["a"], "label": [1]}}, "got an object of 'train', want an array"),
    "many columns": ([{f"{n} {'x' * 500}": 1 for n in range(500)}], "there is no column .*… and 488 more"),
    "a long label": ([{"text": "a", "label": "x" * 9000}, *[{"text": "b", "label": "b"}] * 9], "got label 'xxx"),
    "a list of them": ([{"text": {"y" * 900: 1, "z": 2}, "label": "b"}] * 9, "got a struct of yyy"),
    "text for rows": (["x" * 9000], "row 1: got str, want an object with named columns"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_errors_are_short(name: str, tmp_path: Path) -> None:
    content, message = WRONG[name]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    for choices in (("a", "b"), {"a": "x", "b": "y"}):
        with pytest.raises(ValueError, match=message) as error:
            load_task(str(path), choices=choices)
        assert len(str(error.value).replace(str(path), "")) < 1500


def test_errors_of_other_formats_are_short(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(",".join(f"column {n} {'x' * 300}" for n in range(2000)) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"there is no column 'text', only 'column 0 .* and 1988 more") as error:
        list(read_rows(path, ("text",)))
    assert len(str(error.value)) < 1800
    path.write_text("text,label\n" + "".join(f"row {n},{n % 90} {'x' * 300}\n" for n in range(900)), encoding="utf-8")
    (tmp_path / "b.csv").write_text(f"text,label\nrow,{'y' * 9000}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"got label 'yyy.*…, want one of .* and 78 more") as error:
        load_task(f"{path}:{tmp_path / 'b.csv'}")
    assert len(str(error.value)) < 1800
    for text in (f"train: {list(range(9000))}\nname: a/b", f"train: a.csv\nchoices: {[*range(9000), 1]}"):
        (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"a\.yaml") as error:
            check_name(str(tmp_path / "a.yaml"))
        assert len(str(error.value).replace(str(tmp_path), "")) < 1800


OBJECTS_THAT_ARE_A_ROW: list[tuple[Any, tuple[str, ...]]] = [
    ({"text": "one", "label": "x"}, ("text", "label")),
    ({"text": {"a": "one"}, "label": "x"}, ("text.a", "label")),
    ({"columns": ["text"], "data": [["one"]], "text": "one", "label": "x"}, ("text", "label")),
    ({"review": {"text": "one", "label": "x"}}, ("review.text", "review.label")),
]


@pytest.mark.parametrize(("content", "columns"), OBJECTS_THAT_ARE_A_ROW)
def test_objects_that_stay_a_row(content: Any, columns: tuple[str, ...], tmp_path: Path) -> None:
    (row,) = read(tmp_path / "a.json", content, columns)
    assert [pick(row.cells, column) for column in columns] == ["one", "x"]


def test_what_is_shown_of_values() -> None:
    assert shown("ab\n") == "'ab\\n'" and shown(7) == "7"
    assert shown("x" * 10**7) == "'" + "x" * 79 + "…"
    assert listed("abc") == "'a', 'b', 'c'" and listed(range(14)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more"
