"""Training rows that overlap with the rows on which a prompt is scored.

Some public sets are cut from the same texts (SST-2 and the movie snippets, for instance). A training row leaks if it
contains a test row or is contained in one, after lower-casing and removing everything but letters and digits. The
contained text must have at least four words, because finding "good" in another text means nothing. Shorter texts leak
if they are equal. In scripts without spaces between words, a few characters count as a word (`words`).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np

from prompttransfer.tasks.task import Task
from prompttransfer.tasks.words import word_count

MIN_WORDS = 4

_OTHER = re.compile(r"[\W_]+")
# A text is searched by a hash of its first characters: the largest of these widths that fits the text.
_WIDTHS = (1, 2, 4, 8, 16, 32, 64)
# Characters of training text in memory at a time, and characters whose windows are hashed at a time.
_CHUNK, _BLOCK = 32_000_000, 1_000_000
_BASE = 0x9E3779B97F4A7C15  # odd
_TABLE_BITS = 22


def normalize(text: str) -> str:
    """Lower-cased letters and digits only."""
    return _OTHER.sub("", text.lower())


def leaking_rows(train: Iterable[str], test: Sequence[str]) -> set[int]:
    """Indices of the train texts that contain a test text, are contained in one, or equal one; see above.

    Texts without a letter or digit never leak.

    The search is exact and linear in the number of characters: a text can contain another only where the hash of its
    next characters equals the hash of the other's first ones. Train texts are read in chunks.
    """
    tests = {normalize(text): word_count(text) >= MIN_WORDS for text in test}
    tests.pop("", None)
    wanted = _Prefixes([text for text, is_long in tests.items() if is_long])
    leaking: set[int] = set()
    for start, texts in _chunks(train, _CHUNK):
        normalized = [normalize(text) for text in texts]
        leaking.update(start + row for row, text in enumerate(normalized) if text in tests)
        leaking.update(start + row for row, _ in wanted.found_in(normalized))
        rows: dict[str, list[int]] = defaultdict(list)
        for row, text in enumerate(normalized):
            if text and word_count(texts[row]) >= MIN_WORDS:
                rows[text].append(start + row)
        inner = list(rows)
        for _, index in _Prefixes(inner).found_in(list(tests)):
            leaking.update(rows[inner[index]])
    return leaking


def drop_leaks(task: Task) -> Task:
    """Drop leaking rows from a task: validation rows that overlap with test rows, and training rows that overlap with
    test or validation rows."""
    return drop_leaks_of([task], [task])[0]


def drop_leaks_of(tasks: Sequence[Task], judges: Iterable[Task]) -> list[Task]:
    """Drop rows from tasks that overlap with rows of other tasks, the judges, as in `drop_leaks`.

    All tasks are searched together, so that the judges' rows are read only once.
    """
    tests, validations = list[str](), list[str]()
    for judge in judges:
        tests += judge.test["raw"]
        validations += judge.validation["raw"]

    def kept(split: str, judged: Sequence[str]) -> list[list[int]]:
        leaking = leaking_rows((text for task in tasks for text in getattr(task, split)["raw"]), judged)
        rows, first = [], 0
        for task in tasks:
            count = len(getattr(task, split))
            rows.append([row for row in range(count) if first + row not in leaking])
            first += count
        return rows

    pairs = zip(kept("train", [*tests, *validations]), kept("validation", tests), strict=True)
    return [task.select_training(*rows) for task, rows in zip(tasks, pairs, strict=True)]


def _chunks(texts: Iterable[str], most: int) -> Iterator[tuple[int, list[str]]]:
    """First index and texts of each chunk. A chunk ends with the text that fills it."""
    chunk: list[str] = []
    size = start = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size >= most:
            yield start, chunk
            start, size, chunk = start + len(chunk), 0, []
    if chunk:
        yield start, chunk


class _Prefixes:
    """Texts to find in others, by a hash of their first characters."""

    def __init__(self, texts: Sequence[str]) -> None:
        """texts: nonempty, without duplicates."""
        self._texts = texts
        groups: dict[int, list[int]] = defaultdict(list)
        for index, text in enumerate(texts):
            groups[max(width for width in _WIDTHS if width <= len(text))].append(index)
        self._tables: dict[int, tuple[np.ndarray, dict[int, list[int]]]] = {}
        for width, indices in groups.items():
            prefixes = "".join(texts[index][:width] for index in indices)
            hashes = next(hashes[::width] for size, hashes in _windows(prefixes) if size == width)
            by_hash: dict[int, list[int]] = defaultdict(list)
            for value, index in zip(hashes.tolist(), indices, strict=True):
                by_hash[value].append(index)
            marks = np.zeros(1 << _TABLE_BITS, bool)  # rules out most positions with one lookup
            marks[_short(hashes)] = True
            self._tables[width] = marks, by_hash

    def found_in(self, outers: Sequence[str]) -> Iterator[tuple[int, int]]:
        """All pairs (outer, inner) of indices such that the outer text contains the inner one. Pairs may repeat."""
        for first, block in _chunks(outers if self._tables else (), _BLOCK):
            starts = [0, *accumulate(map(len, block))]
            for width, hashes in _windows("".join(block)):
                if width not in self._tables:
                    continue
                marks, by_hash = self._tables[width]
                for place in np.flatnonzero(marks[_short(hashes)]).tolist():
                    for inner in by_hash.get(int(hashes[place]), ()):
                        outer = bisect_right(starts, place) - 1
                        if block[outer].startswith(self._texts[inner], place - starts[outer]):
                            yield first + outer, inner


def _windows(text: str) -> Iterator[tuple[int, np.ndarray]]:
    """Each width with the hashes of all windows of that width: polynomials modulo 2^64."""
    hashes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    for width in _WIDTHS:
        yield width, hashes
        hashes = hashes[:-width] * np.uint64(pow(_BASE, width, 2**64)) + hashes[width:]


def _short(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
