"""A library of trained prompts: a folder that finds which of a million resemble a given one."""

from prompttransfer.library.folder import METRICS, Found, Library, Match
from prompttransfer.library.index import Entry

__all__ = ["METRICS", "Entry", "Found", "Library", "Match"]
