"""Rows of Parquet and Arrow files and of `datasets` folders, a few thousand rows in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prompttransfer.files.excerpt import listed
from prompttransfer.files.json_file import read_json
from prompttransfer.tasks.cells import ClassName
from prompttransfer.tasks.tables import Row, check_columns

_BATCH = 1000


def file_rows(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    """Rows of a Parquet file, or of an Arrow file in either format (file or stream)."""
    try:
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path, memory_map=True) as file:
                schema = file.schema_arrow
                check_columns(path, columns, schema.names)
                names = _tops(columns, schema.names)
                yield from _rows(path, schema, file.iter_batches(batch_size=_BATCH, columns=names), names)
            return
        with pa.memory_map(str(path)) as source:
            reader = _arrow_reader(source)
            check_columns(path, columns, reader.schema.names)
            yield from _rows(path, reader.schema, _batches(reader), _tops(columns, reader.schema.names))
    except (pa.ArrowException, OSError, OverflowError, UnicodeError) as error:
        raise ValueError(f"{path}: not a {path.suffix.lower().lstrip('.')} file that can be read: {error}") from error


def folder_rows(path: Path, columns: Sequence[str], split: str) -> Iterator[Row]:
    """Rows of a folder written by `save_to_disk`: of a Dataset, or of one split of a DatasetDict."""
    from datasets import DatasetDict, load_from_disk

    saved = load_from_disk(str(path))
    if isinstance(saved, DatasetDict):
        if split not in saved:
            raise ValueError(f"{path}: there is no split {split!r}, only {listed(saved)}")
        saved, path = saved[split], path / split
    schema = saved.features.arrow_schema
    check_columns(path, columns, schema.names)
    names = _tops(columns, schema.names)
    tables = saved.select_columns(names).with_format("arrow").iter(batch_size=_BATCH)
    yield from _rows(path, schema, (batch for table in tables for batch in table.to_batches()), names)


def folder_splits(path: Path) -> tuple[str, ...]:
    """Names of the splits of a DatasetDict folder; empty for a Dataset."""
    file = path / "dataset_dict.json"
    if not file.is_file():
        return ()
    content = read_json(file)
    splits = content.get("splits") if isinstance(content, dict) else None
    if not isinstance(splits, list) or not all(isinstance(split, str) for split in splits):
        raise ValueError(f"{file}: want a list of the names of its splits")
    return tuple(splits)


def _arrow_reader(source: pa.MemoryMappedFile) -> Any:
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:  # cache files of the datasets library are streams
        source.seek(0)
        return pa.ipc.open_stream(source)


def _batches(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
    else:
        yield from reader


def _tops(columns: Sequence[str], known: Sequence[str]) -> list[str]:
    """Top-level columns to read for the requested ones: "a" for "a.b", unless there is a column "a.b"."""
    asked = [column for column in columns if column in known]
    inner = [name for column in columns for name in known if column not in known and column.startswith(f"{name}.")]
    return list(dict.fromkeys([*asked, *inner]))


def _rows(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], names: Sequence[str]) -> Iterator[Row]:
    classes = _class_names(schema)
    number = 0
    for whole in batches:
        for start in range(0, len(whole), _BATCH):  # a file may be a single batch
            batch = whole.slice(start, _BATCH)
            # In a damaged file, offsets may point anywhere, and reading values unchecked could crash the process.
            batch.validate(full=True)
            columns = [_values(batch.column(name), classes.get(name)) for name in names]
            for values in zip(*columns, strict=True):
                number += 1
                yield Row(f"{path}, row {number}", dict(zip(names, values, strict=True)))


def _values(column: pa.Array, classes: Sequence[str] | None) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_timestamp(column.type) and column.type.unit == "ns":  # finer than Python's datetime
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    values = column.to_pylist()
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        # The shortest form: 0.1, not 0.10000000149011612.
        number = column.type.to_pandas_dtype()
        values = [None if value is None else float(str(number(value))) for value in values]
    if classes is None:
        return values
    # -1 is a hidden label, as in the test rows of many public sets.
    return [
        ClassName(classes[value], value) if value is not None and 0 <= value < len(classes) else None
        for value in values
    ]


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Class names of each ClassLabel column, which the datasets library keeps in the schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        kinds = {name: kind for name, kind in features.items() if isinstance(kind, dict)}
        return {name: list(kind["names"]) for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}  # missing, or another program's metadata
