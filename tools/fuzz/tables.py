"""Targets: untrusted tables in CSV, TSV, JSON, Parquet and Arrow."""

from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prompttransfer.tasks.cells import Misfit, answers_of, label_of, text_of
from prompttransfer.tasks.tables import read_rows
from tools.fuzz.target import Draw, Finding, Folder, Target, refuses

_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".csv.gz", ".jsonl.gz")
_ENCODINGS = ("utf-8", "utf-16", "latin-1", "utf-7", "shift_jis", "unicode_escape")
_TABLE_SEEDS = [
    b'\x00\x00text,label\ngood,1\n"two\nlines, one cell",0\n',
    b"\x00\x00text;label\na;1\n;2\n",
    b"\x01\x00text\tlabel\na\t1\nb\t\n",
    b'\x02\x00{"text": "a", "label": 1}\n{"text": ["b", "c"], "label": true}\n',
    b'\x03\x00[{"text": "a", "label": {"x": 1}},\n {"text": null, "label": 1.0}]',
    b'\x03\x00{"text": "a", "label": 2}{"text": "\\u00e9", "label": 2}',
    b"\x04\x00text,label\na,1\n",
    b"\x05\x00" + b'{"text": "a", "label": 1}\n' * 3,
    b"\x00\x01" + "text,label\nä,1\n".encode("utf-16"),
    b'\x01\x00text\tlabel\n"a\t1\nb"\t0\nc\t1\n',
    b'\x00\x80sep=;\ntext;label\n"a \\"b\\"";1\n',
    b'\x03\x00{"columns": ["text", "label"], "index": [0], "data": [["a", 1]]}',
    b'\x03\x00{"0": {"text": "a", "label": 1}, "1": {"text": "b", "label": "1.0"}}',
]
_TABLE_WORDS = [
    b"text", b"label", b'"', b'""', b"\n", b"\r\n", b"\r", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\t",
    b";", b"|", b"{", b"}", b"[", b"]", b":", b",", b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"\\ud800",
    b"\\u0000", b'\\"', b"sep=;", b"[" * 60, b'{"a":' * 30, b"\x85", b"\xe2\x80\xa8",
]  # fmt: skip


def check_table(data: bytes) -> bool:
    draw = Draw(data)
    suffix, options = draw.of(_TABLES), draw.byte()
    encoding, quotes = _ENCODINGS[options % len(_ENCODINGS)], options < 192
    escape = "\\" if options >= 128 else None
    content = data[2:]
    with Folder() as folder:
        path = folder / f"a{suffix}"
        whole = gzip.compress(content, 1) if suffix.endswith(".gz") and options % 7 else content
        path.write_bytes(whole)
        rows: list[Any] = []

        def read() -> None:
            rows.extend(read_rows(path, ("text",), encoding=encoding, quotes=quotes, escape=escape))

        if refuses(read, path.name):
            return False
        fitting = [row for row in rows if not row.problem]
        for row in rows:
            if row.problem:
                continue
            for value in row.cells.values():
                for meaning in (text_of, label_of, answers_of):
                    try:
                        converted = meaning(value)
                    except Misfit:
                        continue
                    "".join(converted).encode()  # every text can be encoded
                    if meaning is label_of and label_of(converted) != converted:
                        raise Finding(f"{value!r} is the label {converted!r}, and that one {label_of(converted)!r}")
        if suffix == ".csv" and encoding == "utf-8" and options < 128 and fitting and len(fitting) == len(rows):
            _check_csv(path, fitting)
        return True


def _check_csv(path: Path, rows: list[Any]) -> None:
    """Check that the csv module writes cells that read back the same."""
    names = list(rows[0].cells)
    if any(None in row.cells.values() or list(row.cells) != names for row in rows):
        return
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    kept = [row for row in rows if len(names) > 1 or any(cell.strip() for cell in row.cells.values())]
    writer.writerows([row.cells[name] for name in names] for row in kept)
    path.write_bytes(text.getvalue().encode())
    again = [row.cells for row in read_rows(path, ("text",))]
    if again != [row.cells for row in kept]:
        raise Finding(f"read {[row.cells for row in kept]!r}, and after writing it {again!r}")


def _arrow_seeds() -> list[bytes]:
    table = pa.table(
        {
            "text": ["a", None, "cc"],
            "label": pa.array(["x", "y", "x"]).dictionary_encode(),
            "day": [date(2020, 1, 31)] * 3,
            "list": [["a"], [], None],
        }
    )
    described = {"info": {"features": {"n": {"_type": "ClassLabel", "names": ["no", "yes"]}}}}
    classes = pa.table({"text": ["a", "b"], "n": [0, 1]}).replace_schema_metadata(
        {"huggingface": json.dumps(described)}
    )
    seeds = []
    for one in (table, classes):
        parquet, file, stream = io.BytesIO(), io.BytesIO(), io.BytesIO()
        pq.write_table(one, parquet)
        for sink, make in ((file, pa.ipc.new_file), (stream, pa.ipc.new_stream)):
            with make(sink, one.schema) as writer:
                writer.write_table(one)
        seeds += [b"\x00" + parquet.getvalue(), b"\x01" + file.getvalue(), b"\x02" + stream.getvalue()]
    return seeds


def check_arrow(data: bytes) -> bool:
    with Folder() as folder:
        path = folder / f"a{(Draw(data)).of(('.parquet', '.arrow', '.feather'))}"
        path.write_bytes(data[1:])
        rows: list[Any] = []
        if refuses(
            lambda: rows.extend(read_rows(path, ("text", "n") if b"huggingface" in data else ("text", "day"))),
            path.name,
        ):
            return False
        for row in rows:
            for value in row.cells.values():
                try:
                    text_of(value).encode()
                except Misfit:
                    continue
        return True


def targets() -> dict[str, Target]:
    return {
        "table": Target(check_table, _TABLE_SEEDS, _TABLE_WORDS),
        "arrow": Target(check_arrow, _arrow_seeds(), longest=8192),
    }
