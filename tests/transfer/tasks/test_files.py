"""Users' own tables: every format gives the same rows, and errors name what does not fit."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import pickle
import re
import sqlite3
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from prompttransfer.files.json_file import read_json
from prompttransfer.tasks import check_name, load_task
from prompttransfer.tasks.cells import Misfit, answers_of, label_of, pick, text_of
from prompttransfer.tasks.labels import Labels
from prompttransfer.tasks.names import file_paths, is_file_name, task_name
from prompttransfer.tasks.tables import read_rows

Rows = list[dict[str, Any]]


def reviews(count: int = 30) -> Rows:
    return [{"text": f"text number {n} of all", "label": ["bad", "good"][n % 2]} for n in range(count)]


def as_csv(rows: Rows, **options: Any) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def as_json_lines(rows: Rows) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def ipc(rows: Rows, open_writer: Callable[..., Any]) -> bytes:
    table, sink = pa.Table.from_pylist(rows), io.BytesIO()
    with open_writer(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return sink.getvalue()


def as_parquet(rows: Rows) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=7)
    return sink.getvalue()


def zipped(name: str, content: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as file:
        file.writestr(name, content)
    return sink.getvalue()


def sqlite() -> bytes:
    with closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table reviews (text, label)")
        return database.serialize() if hasattr(database, "serialize") else b"SQLite format 3\0" + bytes(84)


def as_orc(rows: Rows) -> bytes:
    sink = io.BytesIO()
    orc.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def as_npy() -> bytes:
    sink = io.BytesIO()
    np.save(sink, np.arange(3))
    return sink.getvalue()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, delimiter="\t"),
    ".CSV.gz": lambda rows: gzip.compress(as_csv(rows)),
    ".tsv.gz": lambda rows: gzip.compress(as_csv(rows, delimiter="\t")),
    ".jsonl": as_json_lines,
    ".ndjson": as_json_lines,
    ".jsonl.gz": lambda rows: gzip.compress(as_json_lines(rows)),
    ".json": lambda rows: json.dumps(rows, indent=1).encode(),
    ".json.gz": lambda rows: gzip.compress(json.dumps(rows).encode()),
    ".parquet": as_parquet,
    ".arrow": lambda rows: ipc(rows, pa.ipc.new_stream),
    ".feather": lambda rows: ipc(rows, pa.ipc.new_file),
}


def cells(path: Path, columns: tuple[str, ...] = ("text", "label"), **options: Any) -> Rows:
    """The requested columns of all rows, none of which may have a problem."""
    rows = list(read_rows(path, columns, **options))
    assert not [row.problem for row in rows if row.problem]
    return [{column: row.cells[column] for column in columns} for row in rows]


def content(task: Any) -> set[tuple[str, str]]:
    """All texts with their answers."""
    return {
        (row["raw"], task.choices[row["label"]]) for split in (task.train, task.validation, task.test) for row in split
    }


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_task(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"rows{suffix}").write_bytes(WRITERS[suffix](reviews()))
    task = load_task(str(tmp_path / f"rows{suffix}"))
    assert task.name == "rows" and task.choices == ("bad", "good") and task.origin == f"rows{suffix}"
    assert content(task) == {(row["text"], row["label"]) for row in reviews()}
    assert (len(task.train), len(task.validation), len(task.test)) == (24, 3, 3)


# JSON and Arrow can contain any text. CSV merges kinds of line breaks, and a blank cell is not a text.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


@pytest.mark.parametrize("suffix", WRITERS)
@given(rows=st.lists(st.tuples(TEXTS, st.sampled_from(["a", "b;c", 'd"e'])), min_size=1, max_size=20))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_what_is_written_is_read(suffix: str, rows: list[tuple[str, str]]) -> None:
    written = [{"text": text.replace("\0", ""), "label": label} for text, label in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"rows{suffix}")
        path.write_bytes(WRITERS[suffix](written))
        assert cells(path) == written


@given(rows=st.lists(st.dictionaries(TEXTS, st.integers() | TEXTS | st.lists(TEXTS)), min_size=2))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_objects_may_stand_in_an_array_or_one_after_the_other(rows: Rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        for text in (json.dumps(rows, indent=1), "\n".join(map(json.dumps, rows)), json.dumps(rows) + "\n \n"):
            path.write_text(text, encoding="utf-8")
            assert [row.cells for row in read_rows(path, ())] == rows


TEXT_FILES = {
    "mark at the start": b"\xef\xbb\xbftext,label\r\none,x\r\ntwo,y\r\n",
    "blank lines": b"\n\ntext,label\n\none,x\n   \ntwo,y\n\n\n",
    "no line break at the end": b"text,label\none,x\ntwo,y",
    "carriage returns only": b"text,label\rone,x\rtwo,y\r",
    "semicolons": b"text;label\none;x\ntwo;y\n",
    "tabs": b"text\tlabel\none\tx\ntwo\ty\n",
    "bars": b"id|text|label\n1|one|x\n2|two|y\n",
    "quoted heading": b'"text";"label"\n"one";"x"\n"two";"y"\n',
    "spaces in the heading": b"text , label\none,x\ntwo,y\n",
    "spaces behind commas": b'"text", "label"\n"one", "x"\n"two", "y"\n',
    "spaces behind commas, no quotation marks": b"text, label\none, x\ntwo, y\n",
    "UTF-16 with its mark": "text;label\none;x\ntwo;y\n".encode("utf-16"),
    "columns nobody asked for": b",text,note,note,label\n0,one,,,x\n1,two,,,y\n",
}


@pytest.mark.parametrize("name", TEXT_FILES)
def test_text_files_as_people_write_them(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(TEXT_FILES[name])
    assert cells(tmp_path / "a.csv") == [{"text": "one", "label": "x"}, {"text": "two", "label": "y"}]


def test_commas_in_a_file_of_tabs_or_semicolons_are_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;label\na, b;x\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("text,label\na\tb,x\n", encoding="utf-8")
    assert cells(tmp_path / "a.csv") == [{"text": "a, b", "label": "x"}]
    assert cells(tmp_path / "b.tsv") == [{"text": "a\tb", "label": "x"}]


def test_quoted_line_breaks_and_long_fields(tmp_path: Path) -> None:
    long = "word " * 60_000
    (tmp_path / "a.csv").write_text(f'text,label\n"one\n\ntwo ""three""",x\n{long},y\n', encoding="utf-8")
    assert cells(tmp_path / "a.csv") == [{"text": 'one\n\ntwo "three"', "label": "x"}, {"text": long, "label": "y"}]


def test_encoding_is_named_and_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("text,label\nfine,x\ncafé,y\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.csv: not a UTF-8 text file, line 3; .* encoding: latin-1"):
        cells(path)
    assert cells(path, encoding="latin-1")[1]["text"] == "café"
    path.write_bytes("text,label\n“fine”,x\n".encode("cp1252"))
    with pytest.raises(ValueError, match=r"line 2; .* encoding: cp1252"):
        cells(path)
    path.write_bytes("text,label\ncafé,y\n".encode("utf-16-le"))
    assert cells(path, encoding="utf-16-le")[0]["text"] == "café"


ROWS_WITHOUT_HEADING = {
    "commas": 'x,"one, two"\ny,three\n',
    "tabs in a .csv": "x\tone, two\ny\tthree\n",
    "bars": "x|one, two\ny|three\n",
}


@pytest.mark.parametrize("name", ROWS_WITHOUT_HEADING)
def test_a_first_line_that_is_a_row(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(ROWS_WITHOUT_HEADING[name], encoding="utf-8")
    rows = list(read_rows(tmp_path / "a.csv", ("text", "label"), heading=("label", "text")))
    assert [row.cells for row in rows] == [{"label": "x", "text": "one, two"}, {"label": "y", "text": "three"}]
    assert rows[0].place.endswith("row 1")
    with pytest.raises(ValueError, match=r"there is no column 'text', only .*first line is a row, .*set heading"):
        cells(tmp_path / "a.csv")


def test_delimiters_that_nothing_tells(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text^label\na, b^x\n", encoding="utf-8")
    assert cells(path, delimiter="^") == [{"text": "a, b", "label": "x"}]
    path.write_text("a, b\tx\nc, d\ty\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.csv: ',', '\\t' all make 2 columns; set the delimiter"):
        cells(path, heading=("text", "label"))
    assert cells(path, heading=("text", "label"), delimiter="\t")[1] == {"text": "c, d", "label": "y"}


COLUMNS = {"text": ["one", "two"], "label": ["x", "y"], "other": [1]}
OBJECTS = {
    "columns": COLUMNS,
    "columns of pandas": {name: dict(enumerate(values)) for name, values in COLUMNS.items()},
    "an array inside": {"version": 1, "data": [{"text": "one", "label": "x"}, {"text": "two", "label": "y"}]},
}


@pytest.mark.parametrize("name", OBJECTS)
def test_one_object_of_json_may_hold_all_rows(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(OBJECTS[name], indent=1) + "\n \n", encoding="utf-8")
    assert cells(tmp_path / "a.json") == [{"text": "one", "label": "x"}, {"text": "two", "label": "y"}]


def test_one_object_of_json_may_be_a_row(tmp_path: Path) -> None:
    row = {"text": "one", "label": "x", "more": [{"text": "no row"}]}
    (tmp_path / "a.json").write_text(json.dumps(row), encoding="utf-8")
    assert cells(tmp_path / "a.json") == [{"text": "one", "label": "x"}]
    (tmp_path / "a.json").write_text(json.dumps({"review": {"text": "one", "stars": "x"}}), encoding="utf-8")
    (row,) = read_rows(tmp_path / "a.json", ("review.text", "review.stars"))
    assert pick(row.cells, "review.text") == "one"


def test_columns_of_different_lengths_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"text": ["one", "two"], "label": ["x"]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json: got 2 of 'text', 1 of 'label', want as many values"):
        cells(tmp_path / "a.json")


FOLDERS = {
    "as on the hub": ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-0.parquet"),
    "by name": ("train.csv", "my train_2.csv", "test.csv"),
    "a folder each": ("train/one.jsonl.gz", "train/two.jsonl.gz", "eval/rows.jsonl.gz"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_with_files_of_splits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (reviews(30)[:12], reviews(30)[12:20], reviews(30)[20:])
    for file, rows in zip(FOLDERS[name], parts, strict=True):
        path = tmp_path / "reviews" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(WRITERS[path.name[path.name.index(".") :]](rows))
    (tmp_path / "reviews" / "README.md").write_text("training, testing", encoding="utf-8")
    (tmp_path / "described.yaml").write_text("train: reviews\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for file in ("reviews", str(tmp_path / "reviews"), "described.yaml"):
        task = load_task(file)
        assert {row["raw"] for row in task.test} == {row["text"] for row in parts[2]}
        assert (len(task.train), len(task.validation)) == (18, 2)
    assert load_task("reviews").name == "reviews"


def test_folders_that_do_not_tell_their_splits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no table in this folder is named after a split .* it has no files"):
        check_name(str(tmp_path))
    (tmp_path / "reviews.csv").write_bytes(as_csv(reviews()))
    (tmp_path / "contest.csv").write_bytes(as_csv(reviews()))
    with pytest.raises(ValueError, match=r"it has contest\.csv, reviews\.csv; give a file, or list several"):
        check_name(str(tmp_path))
    for name in ("train.csv", "train.jsonl"):
        (tmp_path / name).write_bytes(WRITERS[Path(name).suffix](reviews()))
    with pytest.raises(ValueError, match=r"the files of split 'train' end in \.csv and \.jsonl"):
        check_name(str(tmp_path))


BROKEN = [
    ("a.csv", b"text,text,label\na,b,x\n", r"a\.csv: there are 2 columns 'text', want one"),
    ("a.csv", b"texts,label\na,x\n", r"no column 'text', only 'texts', 'label'; did you mean 'texts'\?"),
    ("a.csv", b"", r"no column 'text', only none"),
    ("a.csv.gz", b"text,label\n", r"a\.csv\.gz: not a gzip file"),
    (
        "a.csv.gz",
        gzip.compress(b"text,label\na,x\n" * 99, mtime=0)[:-9],
        r"a\.csv\.gz: not a gzip file, or truncated",
    ),
    ("a.json", b'[{"text": "a", "label": 1}, {"text": ', r"a\.json: not JSON: .* line 1 column 38"),
    ("a.json", b'[{"text": "a", "label": 1}', r"a\.json: not JSON: .* line 1 column 27"),
    ("a.json", b'\n{"text": "a"} nonsense', r"a\.json: not JSON: .* line 2 column 15"),
    ("a.parquet", b"PAR1 but no more", r"a\.parquet: not a parquet file that can be read"),
    ("a.arrow", b"ARROW1 but no more", r"a\.arrow: not a arrow file that can be read"),
    ("a.arrow", b"", r"a\.arrow: not a arrow file that can be read"),
    ("a.parquet", as_parquet([{"txt": "a", "label": 1}]), r"no column 'text', only 'txt', 'label'; did you mean 'txt'"),
]


@pytest.mark.parametrize(("name", "raw", "message"), BROKEN)
def test_files_that_are_not_what_they_say(name: str, raw: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        cells(tmp_path / name)


OTHER_KINDS = {
    "gzip": (gzip.compress(as_csv(reviews()), mtime=0), r"this is a gzip file; rename it to end in \.gz"),
    "zip": (zipped("reviews.csv", as_csv(reviews())), r"this is a zip file or an Excel workbook"),
    "Excel": (zipped("xl/workbook.xml", b"<w/>"), r"this is a zip file or an Excel workbook"),
    "Parquet": (as_parquet(reviews()), r"this is a Parquet file; rename it to end in \.parquet"),
    "Arrow file": (ipc(reviews(), pa.ipc.new_file), r"this is an Arrow file; rename it to end in \.arrow"),
    "Arrow stream": (ipc(reviews(), pa.ipc.new_stream), r"this is an Arrow file"),
    "xz": (lzma.compress(as_csv(reviews())), "this is an xz file; decompress it"),
    "bzip2": (bz2.compress(as_csv(reviews())), "this is a bzip2 file; decompress it"),
    "zstd": (pa.compress(as_csv(reviews()), "zstd", asbytes=True), "this is a zstd file; decompress it"),
    "SQLite": (sqlite(), "this is an SQLite database"),
    "ORC": (as_orc(reviews()), "this is an ORC file"),
    "pickle": (pickle.dumps(reviews()), "this is a pickle"),
    "NumPy": (as_npy(), "this is a NumPy file"),
    "UTF-16 without a mark": (as_csv(reviews()).decode().encode("utf-16-le"), "UTF-16 text .* encoding: utf-16-le"),
    "UTF-16 without a mark, the other way": (
        as_csv(reviews()).decode().encode("utf-16-be"),
        "UTF-16 text .* encoding: utf-16-be",
    ),
    "UTF-32": (as_csv(reviews()).decode().encode("utf-32"), "this is UTF-32 text"),
}


@pytest.mark.parametrize("name", [".csv", ".tsv", ".json", ".jsonl", ".csv.gz"])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_other_kinds_of_files_are_told_by_their_content(kind: str, name: str, tmp_path: Path) -> None:
    raw, message = OTHER_KINDS[kind]
    path = tmp_path / f"a{name}"
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    for encoding in ("utf-8", *(["latin-1"] if "UTF" not in kind else [])):
        with pytest.raises(
            ValueError, match=rf"a{re.escape(name)}: this is {message.removeprefix('this is ')}"
        ) as error:
            cells(path, encoding=encoding)
        assert len(str(error.value)) < len(str(path)) + 150
    if name.endswith(".gz") and "gzip" not in kind and "UTF-16" not in kind:
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=f"not a gzip file: this is {message.removeprefix('this is ')}"):
            cells(path)


def test_other_kinds_of_files_in_yaml_and_json(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(gzip.compress(b"train: a.csv\n"))
    with pytest.raises(ValueError, match=r"a\.yaml: this is a gzip file"):
        load_task(str(tmp_path / "a.yaml"))
    (tmp_path / "a.json").write_bytes(zipped("a.json", b"{}"))
    with pytest.raises(ValueError, match=r"a\.json: this is a zip file"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("start", ["PK", "PAR1", "ORC", "BZh9", "Obj", "7z", "Rar!", "%PDF", "\ufffd\ufffd", "()µ"])
def test_texts_that_begin_like_other_kinds(start: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{start},text,label\n1,one,x\n", encoding="utf-8")
    assert cells(tmp_path / "a.csv") == [{"text": "one", "label": "x"}]


def test_a_stray_byte_in_utf8_is_no_other_encoding(tmp_path: Path) -> None:
    good = "".join(f"café numéro {n},{n % 2}\n" for n in range(20))
    path = tmp_path / "a.csv"
    for stray, place in (("naïve,1\n", "line 22, byte 3 \\(0xef\\)"), ("é naïve,1\n", "line 22, byte 1 .* and 1 more")):
        path.write_bytes(f"text,label\n{good}".encode() + stray.encode("latin-1"))
        with pytest.raises(ValueError, match=rf"a\.csv: UTF-8 text that is damaged or mixed .*: {place}") as error:
            cells(path)
        assert "latin-1" not in str(error.value)
    # É followed by a Windows dash happens to be a valid UTF-8 letter.
    path.write_bytes(f"text,label\nCAFÉ—,x\n{good}".encode("cp1252"))
    with pytest.raises(ValueError, match=r"not a UTF-8 text file, line 3; .* encoding: latin-1"):
        cells(path)


def test_duplicate_columns_of_parquet(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"]), pa.array([1])], names=["text", "text", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="there are 2 columns 'text'"):
        cells(tmp_path / "a.parquet")


@pytest.mark.parametrize("write", [pq.write_table, None])
def test_types_of_arrow_columns(write: Any, tmp_path: Path) -> None:
    columns = {
        "large": pa.array(["one"], pa.large_string()),
        "view": pa.array(["words"]).dictionary_encode(),
        "items": pa.array([["a", "b"]]),
        "struct": pa.array([{"inner": {"deep": "value"}, "n": 7}]),
        "structs": pa.array([[{"t": "x"}, {"t": "y"}]]),
        "day": pa.array([date(2024, 2, 29)]),
        "time": pa.array([datetime(2024, 2, 29, 12, 30)], pa.timestamp("ns")),
        "precise": pa.array([Decimal("1.50")]),
        "flag": pa.array([True]),
        "dotted.name": pa.array(["dot"]),
    }
    path = tmp_path / ("a.parquet" if write else "a.arrow")
    if write:
        write(pa.table(columns), path)
    else:
        with pa.ipc.new_file(path, pa.table(columns).schema) as writer:
            writer.write_table(pa.table(columns))
    want = {
        "large": "one",
        "view": "words",
        "items": "a, b",
        "struct.inner.deep": "value",
        "struct.n": "7",
        "structs.t": "x, y",
        "day": "2024-02-29",
        "time": "2024-02-29 12:30:00",
        "precise": "1.50",
        "flag": "true",
        "dotted.name": "dot",
    }
    (row,) = read_rows(path, tuple(want))
    assert {column: text_of(pick(row.cells, column)) for column in want} == want


@pytest.mark.parametrize(
    ("values", "choices"),
    [
        (pa.array([0, 1] * 10), ("0", "1")),
        (pa.array([0.0, 1.0] * 10), ("0", "1")),
        (pa.array([True, False] * 10), ("false", "true")),
        (pa.array([Decimal("3.0"), Decimal("10.0")] * 10), ("3", "10")),
        (pa.array(["b", "a"] * 10).dictionary_encode(), ("a", "b")),
    ],
)
def test_labels_of_any_type(values: pa.Array, choices: tuple[str, ...], tmp_path: Path) -> None:
    table = pa.table({"text": [f"text number {n} of all" for n in range(20)], "label": values})
    pq.write_table(table, tmp_path / "a.parquet")
    task = load_task(str(tmp_path / "a.parquet"))
    assert task.choices == choices
    assert content(task) == {(text, label_of(label)) for text, label in zip(*table.to_pydict().values(), strict=True)}


def test_one_label_in_two_formats(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(as_csv([{"text": f"train {n} x", "label": n % 2} for n in range(20)]))
    held_out = [{"text": f"held out {n}", "label": float(n % 2)} for n in range(4)]
    (tmp_path / "test.parquet").write_bytes(as_parquet(held_out))
    task = load_task(f"{tmp_path}/train.csv:{tmp_path}/test.parquet")
    assert sorted(zip(task.test["raw"], task.test["label"], strict=True)) == [
        (f"held out {n}", n % 2) for n in range(4)
    ]


def test_a_null_label_is_named(tmp_path: Path) -> None:
    rows = [{"text": "one", "label": 1.0}, {"text": "two", "label": None}, {"text": "three", "label": math.nan}]
    (tmp_path / "a.parquet").write_bytes(as_parquet(rows))
    with pytest.raises(ValueError, match=r"a\.parquet, row 2, column 'label': got nothing"):
        load_task(str(tmp_path / "a.parquet"))


CLASSES = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})


def classified(start: int, count: int) -> Dataset:
    rows = {"text": [f"row {n} of all" for n in range(start, start + count)], "label": [n % 2 for n in range(count)]}
    return Dataset.from_dict(rows, features=CLASSES)


def test_names_of_classes_come_from_the_file(tmp_path: Path) -> None:
    classified(0, 20).save_to_disk(tmp_path / "saved")
    classified(0, 20).to_parquet(tmp_path / "a.parquet")
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    for path in (tmp_path / "saved", tmp_path / "a.parquet", arrow):
        task = load_task(str(path))
        assert task.choices == ("neg", "pos")
        assert content(task) == {(f"row {n} of all", ("neg", "pos")[n % 2]) for n in range(20)}
    assert load_task(str(arrow), choices=("bad", "good")).choices == ("bad", "good")
    assert load_task(str(arrow), choices={"0": "bad", "1": "good"}).choices == ("bad", "good")


def test_labels_that_are_not_told_are_nothing(tmp_path: Path) -> None:
    hidden = Dataset.from_dict({"text": ["a"], "label": [-1]}, features=CLASSES)
    hidden.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"row 1, column 'label': got nothing"):
        load_task(str(tmp_path / "a.parquet"))


def test_folder_with_splits_stands_for_all_of_them(tmp_path: Path) -> None:
    splits = {"train": classified(0, 20), "validation": classified(100, 5), "test": classified(200, 6)}
    DatasetDict(splits).save_to_disk(tmp_path / "saved")
    task = load_task(str(tmp_path / "saved"))
    for split, rows in splits.items():
        assert set(getattr(task, split)["raw"]) == set(rows["text"])
    DatasetDict(test=classified(0, 5)).save_to_disk(tmp_path / "other")
    with pytest.raises(ValueError, match="there is no split 'train', only 'test'"):
        load_task(str(tmp_path / "other"))
    (tmp_path / "plain").mkdir()
    with pytest.raises(ValueError, match="plain: no table in this folder is named after a split"):
        check_name(f"{tmp_path}/plain")


def test_bad_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    lines = as_json_lines(reviews()).splitlines()
    lines[3:3] = [b"{", b"[1]", b'{"text": "no label"}', b'{"text": "  ", "label": "bad"}', b'{"label": "good"}']
    lines.append(b'{"text": "a struct", "label": {"is": 1}}')
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    notes: list[str] = []
    progress = type("Progress", (), {"note": lambda self, text: notes.append(text)})()
    with pytest.raises(ValueError, match=r"a\.jsonl, row 4: not JSON"):
        load_task(str(tmp_path / "a.jsonl"))
    for _ in range(2):  # rendered, and read back
        task = load_task(str(tmp_path / "a.jsonl"), bad_rows="skip", progress=progress)
        assert task.skipped == 6 and content(task) == {(row["text"], row["label"]) for row in reviews()}
    assert len(notes) == 2 and all("do not fit: 6; the first: " in note and "row 4: not JSON" in note for note in notes)


def test_a_file_of_bad_rows_only_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes(as_csv(reviews()))
    (tmp_path / "test.csv").write_bytes(as_csv([{"text": "x", "label": "ugly"}] * 3))
    with pytest.raises(
        ValueError, match=r"test\.csv: none of 3 rows fits; the first: .*test\.csv, row 1, column 'label'"
    ):
        load_task(f"{tmp_path}/train.csv:{tmp_path}/test.csv", bad_rows="skip")


def test_rows_are_rendered_once_per_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rendered_rows: Path
) -> None:
    import prompttransfer.tasks.files as files

    calls: list[Any] = []
    render = files.render
    monkeypatch.setattr(files, "render", lambda *args, **more: (calls.append(args), render(*args, **more))[1])
    path = tmp_path / "a.csv"
    path.write_bytes(as_csv(reviews()))
    first = load_task(str(path))
    assert len(calls) == 30
    path.rename(tmp_path / "b.csv")
    again = load_task(str(tmp_path / "b.csv"))
    assert len(calls) == 30 and again.train.to_list() == first.train.to_list() and again.name == "b"
    assert again.train.cache_files and Path(again.train.cache_files[0]["filename"]).is_relative_to(rendered_rows)
    load_task(str(tmp_path / "b.csv"), max_words=2)
    assert len(calls) == 60
    (tmp_path / "b.csv").write_bytes(as_csv(reviews(31)))
    assert len(content(load_task(str(tmp_path / "b.csv")))) == 31


def test_nothing_half_written_stays(tmp_path: Path, rendered_rows: Path) -> None:
    (tmp_path / "a.csv").write_bytes(as_csv([*reviews(5000), {"text": "x", "label": ""}]))
    with pytest.raises(ValueError, match=r"row 5001, column 'label'"):
        load_task(str(tmp_path / "a.csv"), choices=("bad", "good"))
    assert not [path for path in rendered_rows.iterdir() if path.is_dir()]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f'{{"text": "number {n} {"word " * 10}", "label": {n % 2}}}\n' for n in range(60_000))
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_rows(path, ("text", "label")))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 60_000 and path.stat().st_size > 5e6 and peak < 3e6


def test_labels_are_meant_as_most_of_them_tell() -> None:
    def read(choices: list[str], labels: list[Any]) -> list[int]:
        return [*map(Labels.of_choices(choices, labels), labels)]

    assert read(["bad", "good"], ["good", "bad"]) == [1, 0]
    assert read(["bad", "good"], ["Good", "BAD"]) == [1, 0]
    assert read(["bad", "good"], [1, "0", 1.0, True, "False"]) == [1, 0, 1, 1, 0]
    assert read(["1", "2"], [0, 1]) == [0, 1]  # numbers of the answers
    assert read(["1", "2"], [1, 2]) == [0, 1]  # the answers
    assert read(["0.0", "0.2", "1.0"], [1.0, "0.2", 0]) == [2, 1, 0]
    with pytest.raises(Misfit, match="got label 'ugly', want one of 'bad', 'good'"):
        Labels.of_choices(["bad", "good"], ["good", "ugly"])("ugly")


def test_letters_that_differ_in_case_only_stay_apart() -> None:
    labels = Labels.of_values(["us", "US"], "here")
    assert (labels("us"), labels("US")) == (1, 0)
    with pytest.raises(Misfit, match="got label 'Us'"):
        labels("Us")


def test_cells_that_are_no_text() -> None:
    with pytest.raises(Misfit, match=r"got a struct of a, b; want text"):
        text_of({"a": 1, "b": 2})
    with pytest.raises(Misfit, match="got 3 bytes"):
        text_of(b"abc")
    with pytest.raises(Misfit, match="got a list, want one label"):
        label_of(["a"])
    with pytest.raises(Misfit, match=r"no column 'c', only 'b'"):
        pick({"a": {"b": 1}}, "a.c")
    with pytest.raises(Misfit, match="no field 'b' in a int"):
        pick({"a": 1}, "a.b")
    assert answers_of(["x ", None, "y", "x"]) == ("x", "y") and answers_of(7) == ("7",)
    for nothing in ([], None, [None, " "]):
        with pytest.raises(Misfit, match="got nothing, want an answer"):
            answers_of(nothing)


def test_names_of_tasks() -> None:
    assert file_paths("a/train.csv.gz:b.parquet : c.JSON") == [
        Path("a/train.csv.gz"),
        Path("b.parquet"),
        Path("c.JSON"),
    ]
    for name in ("x.parquet", "a.csv.gz:b.arrow", "tasks/mine.yaml", "data/old.xlsx", "/some/folder"):
        assert is_file_name(name)
    for name in ("sst2", "glue/mnli", "others/paws"):
        assert not is_file_name(name)
    assert task_name(Path("a/b.csv.gz")) == "b" and task_name(Path("my set/train.parquet")) == "my-set"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"[" * 3000, "row 1: the JSON is nested too deeply"),
        ("a.json", b"[" + b"[" * 3000, ": the JSON is nested too deeply"),
        ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "row 1: .*digits"),
        ("a.json", b'{"text": ' + b"9" * 5000 + b"}", ": .*digits"),
        (
            "a.jsonl",
            b'{"text": "\\ud800", "label": 1}\n{"text": "a", "label": 2}',
            "column 'text': got half of a surrogate pair",
        ),
    ],
)
def test_json_that_other_readers_stumble_over(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*{message}"):
        load_task(str(file))


def test_an_encoding_whose_errors_have_no_reason(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"text,label\n")
    with pytest.raises(ValueError, match=r"a\.csv: not a UTF-16 text file.*BOM"):
        list(read_rows(file, ("text",), encoding="utf-16"))


def test_arrow_offsets_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    """Without a check, the last value would be read four gigabytes after the end of the file."""
    file = tmp_path / "a.arrow"
    table = pa.table({"text": ["a" * 9, "b" * 9, "c" * 9]})
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content, offsets = file.read_bytes(), np.array([0, 9, 18, 27], np.int32).tobytes()
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, np.array([0, 9, 18, 2**31 - 1], np.int32).tobytes()))
    with pytest.raises(ValueError, match=r"a\.arrow: not a arrow file that can be read"):
        list(read_rows(file, ("text",)))
