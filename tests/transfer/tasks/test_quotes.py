"""Quotation marks of CSV and TSV files: what is well formed reads as the csv module reads it; the rest is named."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompttransfer.tasks import load_task
from prompttransfer.tasks.records import Dialect, Lines
from prompttransfer.tasks.tables import Row, read_rows

ESCAPED = {"escape": "\\"}


def read(path: Path, content: str, **options: Any) -> list[Row]:
    path.write_text(content, encoding="utf-8", newline="")
    return list(read_rows(path, ("text", "label"), **options))


def outcome(rows: list[Row]) -> list[Any]:
    """The two cells of every row, or "problem"."""
    return ["problem" if row.problem else (row.cells["text"], row.cells["label"]) for row in rows]


PIECES = st.lists(
    st.sampled_from(["a", "é", '"', '""', "\\", '\\"', ",", "\t", ";", " ", "\n", "\r", "\r\n"]), max_size=6
)
CELLS = PIECES.map("".join)
TABLE = st.lists(st.lists(CELLS, min_size=3, max_size=3).filter(any), min_size=1, max_size=6)
WRITERS = {
    "minimal": ({}, {}),
    "all": ({"quoting": csv.QUOTE_ALL, "lineterminator": "\n"}, {}),
    "tabs": ({"delimiter": "\t"}, {"delimiter": "\t"}),
    "escaped marks": ({"escapechar": "\\", "doublequote": False}, {"escape": "\\"}),
    "no quotes": ({"escapechar": "\\", "quoting": csv.QUOTE_NONE}, {"escape": "\\", "quotes": False}),
}


@pytest.mark.parametrize("name", WRITERS)
@given(rows=TABLE)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_what_the_csv_module_writes_is_read(name: str, rows: list[list[str]]) -> None:
    written, reading = WRITERS[name]
    file = io.StringIO(newline="")
    csv.writer(file, **written).writerows(rows)
    dialect = Dialect(**{"delimiter": ",", **reading})
    records = list(dialect.records(Lines(io.StringIO(file.getvalue(), newline=""))))
    assert [record.cells for record in records] == rows and not any(record.problem for record in records)


@given(text=st.lists(st.sampled_from(["a", '"', '"', ",", ",", " ", "\n", "\r\n"]), max_size=25).map("".join))
@settings(max_examples=600, deadline=None, derandomize=True)
def test_records_are_those_of_a_strict_reader(text: str) -> None:
    """Up to the first problem."""
    records = []
    for record in Dialect(",").records(Lines(io.StringIO(text, newline=""))):
        if record.problem:
            break
        records.append(record.cells)
    wanted = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), strict=True):
            if len(cells) > 1 or any(cell.strip() for cell in cells):
                wanted.append(cells)
    except csv.Error:
        assert records[: len(wanted)] == wanted
    else:
        assert records == wanted


WELL_FORMED = {
    "marks in a field": ('a "b" c,x\n5" wide,y\n', [('a "b" c', "x"), ('5" wide', "y")]),
    "doubled marks": ('"a ""b"" c",x\n"""",y\n', [('a "b" c', "x"), ('"', "y")]),
    "line breaks": ('"one\r\n\r\ntwo, three\n",x\r\nfour,y\r\n', [("one\r\n\r\ntwo, three\n", "x"), ("four", "y")]),
    "a line that looks like a row": (
        'one,x\n"dear all, it works\nthanks, bob\nbye",x\ntwo,y\n',
        [("one", "x"), ("dear all, it works\nthanks, bob\nbye", "x"), ("two", "y")],
    ),
    "a backslash": ('"C:\\",x\na\\,y\n', [("C:\\", "x"), ("a\\", "y")]),
    "an empty field": ('"",x\n"a","y"', [("", "x"), ("a", "y")]),
}


@pytest.mark.parametrize("name", WELL_FORMED)
def test_well_formed_marks(name: str, tmp_path: Path) -> None:
    content, wanted = WELL_FORMED[name]
    assert outcome(read(tmp_path / "a.csv", f"text,label\n{content}")) == wanted


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t"), (".csv", ";")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("marked", [(7, 15), (0, 1), (0, 29), (28, 29), (29,), (3, 4, 5)])
def test_rows_are_never_joined_by_marks(
    marked: tuple[int, ...], end: str, suffix: str, delimiter: str, tmp_path: Path
) -> None:
    """Some texts begin with a mark that is not closed there."""
    texts = [('"' if n in marked else "") + f"review number {n}" for n in range(30)]
    lines = [f"{text}{delimiter}{('neg', 'pos')[n % 2]}" for n, text in enumerate(texts)]
    path = tmp_path / f"a{suffix}"
    rows = read(path, end.join([f"text{delimiter}label", *lines, ""]))
    wanted = ["problem" if n in marked else (text, ("neg", "pos")[n % 2]) for n, text in enumerate(texts)]
    assert outcome(rows) == wanted
    assert [row.place for row in rows] == [f"{path}, row {n}" for n in range(1, 31)]
    with pytest.raises(ValueError, match=rf"row {marked[0] + 1}: a quotation mark .*quotes: false reads .*escape: '"):
        load_task(str(path))
    assert outcome(read(path, path.read_bytes().decode(), quotes=False)) == [
        (text, ("neg", "pos")[n % 2]) for n, text in enumerate(texts)
    ]


JOINED = {
    "a quotation over two rows": ('"I went home.{d}pos', 'It was late."{d}neg'),
    "over three rows": ('"I went home.{d}pos', "By bus.{d}neg", 'It was late."{d}neg'),
    "an inch": ('"great screen{d}pos', 'only 5"{d}neg'),
}


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("name", JOINED)
def test_a_mark_before_a_delimiter_closes_no_quotation_of_another_row(
    name: str, delimiter: str, tmp_path: Path
) -> None:
    lines = [line.format(d=delimiter) for line in JOINED[name]]
    others = [f"{word}{delimiter}{label}" for word in ("fine", "bad") for label in ("pos", "neg")]
    for rows in ([*lines, *others], [*others, *lines]):
        content = "\n".join([f"text{delimiter}label", *rows, ""])
        outcomes = outcome(read(tmp_path / "a.csv", content))
        assert len(outcomes) == len(rows) and outcomes.count("problem") == 1
        assert outcomes[rows.index(lines[0])] == "problem"
    # The label in the first column.
    turned = [delimiter.join(reversed(line.split(delimiter))) for line in [*lines, *others]]
    content = "\n".join([f"label{delimiter}text", *turned, ""])
    assert outcome(read(tmp_path / "a.csv", content)).count("problem") == 1


def test_free_text_of_a_program_that_does_not_quote(tmp_path: Path) -> None:
    """No cell of one row occurs in another; marks inside fields decide."""
    content = 'text\tlabel\n"who said so\tnobody\nand why"\tno reason\nthe "big" one\tyes\n'
    assert outcome(read(tmp_path / "a.tsv", content)) == [
        "problem",
        ('and why"', "no reason"),
        ('the "big" one', "yes"),
    ]


BROKEN = {
    "text behind the closing mark": ('"a"b,x\n', ["problem"]),
    "a space behind the closing mark": ('"a" ,x\nc,y\n', ["problem", ("c", "y")]),
    "two quotations": ('"a" and "b",x\nc,y\n', ["problem", ("c", "y")]),
    "a mark in the last field": ('a,"x\nb,y\n', ["problem", ("b", "y")]),
    "never closed, at the end": ('a,x\n"b,y', [("a", "x"), "problem"]),
    "never closed, the last line": ('a,x\n"b and c', [("a", "x"), "problem"]),
    "too many fields": ("a,x,y\nb,x\n", ["problem", ("b", "x")]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_marks_are_a_problem_of_their_row(name: str, tmp_path: Path) -> None:
    content, wanted = BROKEN[name]
    assert outcome(read(tmp_path / "a.csv", f"text,label\n{content}")) == wanted


@pytest.mark.parametrize(
    "content",
    [
        '"a \\"quoted\\" word\nand more",x\nb,y\n',  # the next line is no row
        '"one, two, three\nfour" five,x\nb,y\n',
        '"no end\n' + "more, and, more\n" * 5,
        '"dear all, hello\n\nthe "big" one",x\n',
    ],
)
def test_a_file_is_not_read_on_where_the_next_row_is_not_known(content: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.csv, row 2: a quotation mark"):
        read(tmp_path / "a.csv", f"text,label\na,x\n{content}")
    with pytest.raises(ValueError, match=r"a\.csv, row 2: a quotation mark"):
        load_task(str(tmp_path / "a.csv"), bad_rows="skip")


def test_a_broken_heading_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a\.csv, heading: a quotation mark"):
        read(tmp_path / "a.csv", 'text,"label\na,x\n')


SPARK = 'text,label\n"he said \\"hi\\", twice",x\n"\\"hi\\" he said",y\n"ends \\"",x\n"a\\b \\\\",y\nC:\\,x\n'


def test_marks_behind_a_backslash(tmp_path: Path) -> None:
    wanted = [
        ('he said "hi", twice', "x"),
        ('"hi" he said', "y"),
        ('ends "', "x"),
        ("a\\b \\", "y"),
        ("C:\\", "x"),
    ]
    assert outcome(read(tmp_path / "a.csv", SPARK, **ESCAPED)) == wanted
    with pytest.raises(ValueError, match="row 1: a quotation mark"):
        load_task(str(tmp_path / "a.csv"))
    rows = "".join(f'"{n} \\"of\\" 20",{n % 2}\n' for n in range(20))
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    (tmp_path / "a.yaml").write_text("train: a.csv\nescape: '\\'\n", encoding="utf-8")
    task = load_task(str(tmp_path / "a.yaml"))
    assert {*task.train["raw"], *task.validation["raw"], *task.test["raw"]} == {f'{n} "of" 20' for n in range(20)}


def test_a_heading_is_told_in_spite_of_marks(tmp_path: Path) -> None:
    content = '"te;xt","label"\n"one; ""two""","x"\n'.replace("te;xt", "text")
    for delimiter in ",;\t|":
        changed = content.replace('","', f'"{delimiter}"')
        assert outcome(read(tmp_path / "a.csv", changed)) == [('one; "two"', "x")]
        named = changed.split("\n", 1)[1] + '"un"marked' + delimiter + "y\n"
        assert outcome(read(tmp_path / "a.csv", named, heading=("text", "label"))) == [('one; "two"', "x"), "problem"]


DECLARED = {
    "semicolons": ("sep=;\ntext;label\none, two;x\n", {}),
    "commas": ('sep=,\r\ntext,label\r\n"one, two",x\r\n', {}),
    "tabs": ("sep=\t\ntext\tlabel\none, two\tx\n", {}),
    "a rare one": ("SEP=^\ntext^label\none, two^x\n", {}),
    "quoted": ('"sep=;"\ntext;label\none, two;x\n', {}),
    "no heading": ("sep=;\none, two;x\n", {"heading": ("text", "label")}),
    "given as well": ("sep=,\ntext;label\none, two;x\n", {"delimiter": ";"}),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("name", DECLARED)
def test_a_first_line_may_declare_the_delimiter(name: str, suffix: str, encoding: str, tmp_path: Path) -> None:
    content, options = DECLARED[name]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content.encode(encoding))
    (row,) = read_rows(path, ("text", "label"), **options)
    assert row.cells == {"text": "one, two", "label": "x"} and row.place == f"{path}, row 1"
