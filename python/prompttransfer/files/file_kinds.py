"""Recognise files that are not text by their first bytes, whatever their suffix."""

from __future__ import annotations

import re

HEAD = 512  # number of bytes to check

_KINDS = {
    rb"\x1f\x8b": "a gzip file; rename it to end in .gz, such as reviews.csv.gz",
    rb"PK(\x03\x04|\x05\x06|\x07\x08)": "a zip file or an Excel workbook; unzip it, or save its sheet as CSV",
    rb"PAR1[\s\S]*[\x00-\x08]": "a Parquet file; rename it to end in .parquet",
    rb"ARROW1\x00\x00|\xff{4}[\s\S]{2}\x00\x00": "an Arrow file; rename it to end in .arrow",
    rb"\xfd7zXZ\x00": "an xz file; decompress it",
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": "a bzip2 file; decompress it",
    rb"[\x22-\x28]\xb5\x2f\xfd": "a zstd file; decompress it",
    rb"\x04\x22\x4d\x18": "an lz4 file; decompress it",
    rb"7z\xbc\xaf\x27\x1c": "a 7z file; decompress it",
    rb"Rar!\x1a\x07": "a RAR file; decompress it",
    rb"SQLite format 3\x00": "an SQLite database; save its table as CSV",
    rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an old Office file, such as .xls; save its sheet as CSV",
    rb"%PDF-\d": "a PDF file; want a table",
    rb"\x93NUMPY": "a NumPy file; want a table",
    rb"\x89HDF\r\n": "an HDF5 file; save its table as Parquet",
    rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a": "an image; want a table",
    rb"ORC[\s\S]*[\x00-\x08]": "an ORC file; save its table as Parquet",
    rb"Obj\x01": "an Avro file; save its table as Parquet",
    rb"\x80[\x02-\x05][\s\S]{0,8}[\x8c\x95}\])]": "a pickle; save its table as Parquet",
    rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff": "UTF-32 text; want UTF-8",
}
_PATTERNS = [(re.compile(pattern), kind) for pattern, kind in _KINDS.items()]
_UTF16 = {
    "utf-16-le": re.compile(rb"(?:[^\x00]\x00){4,}|(?:[^\x00]\x00)+\Z"),
    "utf-16-be": re.compile(rb"(?:\x00[^\x00]){4,}|(?:\x00[^\x00])+\Z"),
}


def kind_of(head: bytes) -> str:
    """The kind of a file with these first `HEAD` bytes, and what to do about it; "" if it may be text."""
    return next((kind for pattern, kind in _PATTERNS if pattern.match(head)), "")


def utf16_of(head: bytes) -> str:
    """The encoding of UTF-16 text without a byte order mark; "" for other text."""
    return next((codec for codec, pattern in _UTF16.items() if pattern.match(head)), "")


def check_kind(head: bytes, where: object, encoding: str = "utf-8") -> None:
    """Raise a ValueError that starts with `where` if a file is not text, or is UTF-16 where UTF-8 is expected."""
    if encoding.startswith("utf-32"):
        return
    if kind := kind_of(head):
        raise ValueError(f"{where}: this is {kind}")
    if encoding == "utf-8" and (codec := utf16_of(head)):
        raise ValueError(
            f"{where}: this is UTF-16 text without a byte order mark; want UTF-8, or set encoding: {codec}"
        )
