"""Settings for reading the text files of a task, shared by descriptions, cards and the command line."""

from __future__ import annotations

import io

from pydantic import ConfigDict, field_validator, model_validator

from prompttransfer.settings.base import Settings


class Reading(Settings):
    """How to read tables and lines of text. Parquet and Arrow files do not use these settings."""

    model_config = ConfigDict(frozen=True)

    encoding: str = "utf-8"
    """Encoding of text files, such as cp1252."""
    quotes: bool = True
    """Whether quotation marks enclose fields of CSV and TSV files. If false, they are text."""
    escape: str | None = None
    """Escape character for quotation marks in CSV and TSV files, such as a backslash."""
    delimiter: str | None = None
    r"""Delimiter of CSV and TSV files, such as ; or \t (a tab). Default: detected from the first line."""
    heading: tuple[str, ...] = ()
    """Column names of CSV and TSV files without a header line; empty if there is one."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            io.TextIOWrapper(io.BytesIO(), encoding)  # unlike codecs.lookup, accepts only text encodings
        except (LookupError, ValueError) as error:
            raise ValueError("want one that Python knows, such as utf-8 or latin-1") from error
        return encoding

    @field_validator("delimiter", "escape")
    @classmethod
    def _one_character(cls, character: str | None) -> str | None:
        if character is not None and (len(character) != 1 or character in '"\r\n'):
            raise ValueError("want one character, other than a quotation mark or a line break")
        return character

    @model_validator(mode="after")
    def _two_characters(self) -> Reading:
        if self.escape is not None and self.escape == self.delimiter:
            raise ValueError(f"got {self.escape!r} for both delimiter and escape, want two different characters")
        return self
