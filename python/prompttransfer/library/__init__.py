"""A library of trained prompts: a folder with a search for the prompts most similar to a given one."""

from prompttransfer.library.folder import METRICS, Library, Match, SearchResult
from prompttransfer.library.index import Entry

__all__ = ["METRICS", "Entry", "Library", "Match", "SearchResult"]
