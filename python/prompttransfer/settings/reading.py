"""How the text files of a task are read: one group of settings, for a description, a card and the command line."""

from __future__ import annotations

import io

from pydantic import ConfigDict, Field, field_validator, model_validator

from prompttransfer.settings.base import Settings


class Reading(Settings):
    """Of tables and lines of text; Parquet and Arrow files need none of it."""

    model_config = ConfigDict(frozen=True)

    encoding: str = Field("utf-8", description="of text files")
    quotes: bool = Field(True, description="quotation marks enclose fields of CSV and TSV files; false: they are text")
    escape: str | None = Field(
        None, description="character of CSV and TSV files before a quotation mark that is text, such as a backslash"
    )
    delimiter: str | None = Field(
        None, description="between fields of CSV and TSV files; none: as their first line tells"
    )
    heading: tuple[str, ...] = Field((), description="column names of CSV and TSV files whose first line is a row")

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str) -> str:
        try:
            io.TextIOWrapper(io.BytesIO(), encoding)  # unlike codecs.lookup, of text encodings only
        except (LookupError, ValueError) as error:
            raise ValueError("want one that Python knows, such as utf-8, latin-1") from error
        return encoding

    @field_validator("delimiter", "escape")
    @classmethod
    def _one_character(cls, character: str | None) -> str | None:
        if character is not None and (len(character) != 1 or character in '"\r\n'):
            raise ValueError("want one character, and no quotation mark or line break")
        return character

    @model_validator(mode="after")
    def _two_characters(self) -> Reading:
        if self.escape is not None and self.escape == self.delimiter:
            raise ValueError(f"got {self.escape!r} for both delimiter and escape, want two characters")
        return self
