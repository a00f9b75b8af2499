"""Training rows that overlap with rows that a prompt is judged on.

Some public sets are cut from the same texts (SST-2 and the movie snippets, for instance). A training row leaks when it
contains a test row or is contained in one, after lower-casing and removing everything but letters and digits. The inner
one must have at least four words: that "good" stands in another text means nothing. Shorter ones leak when equal. In
scripts without blanks between words, a few characters count as a word (`words`).
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
# A text is looked for by a hash of its first characters, as many as the largest of these that it has.
_WIDTHS = (1, 2, 4, 8, 16, 32, 64)
# Characters of training text in memory at a time, and of text whose windows are hashed at once.
_CHUNK, _BLOCK = 32_000_000, 1_000_000
_BASE = 0x9E3779B97F4A7C15  # odd
_TABLE_BITS = 22


def normalize(text: str) -> str:
    """Lower-cased letters and digits only."""
    return _OTHER.sub("", text.lower())


def leaking_rows(train: Iterable[str], test: Sequence[str]) -> set[int]:
    """Indices of the train texts that contain a test text, are contained in one, or equal one; see above.

    Texts without a letter or digit never leak.

    Exact, and linear in the number of characters: a text can only contain another where the hash of its next characters
    is that of the other's first ones. Train texts are read a piece at a time.
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
    """The task without rows that leak rows it is judged on: validation rows that leak test rows go, and training rows
    that leak test or validation rows."""
    return drop_leaks_of([task], [task])[0]


def drop_leaks_of(tasks: Sequence[Task], judges: Iterable[Task]) -> list[Task]:
    """Tasks without rows that leak rows of the judges, as `drop_leaks` has it.

    The rows of all tasks are looked for at once, so that the judges' are read once, however many tasks there are.
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
    """First index and texts of each piece; a piece ends with the text that fills it."""
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
    """Texts that are looked for in others, by a hash of their first characters."""

    def __init__(self, texts: Sequence[str]) -> None:
        """texts: none empty, none twice."""
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
            marks = np.zeros(1 << _TABLE_BITS, bool)  # most places are told by one look into this
            marks[_short(hashes)] = True
            self._tables[width] = marks, by_hash

    def found_in(self, outers: Sequence[str]) -> Iterator[tuple[int, int]]:
        """All pairs (outer, inner) of indices where the inner text stands in the outer one; a pair may come again."""
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
    """Each of the widths, with a hash of every window of that width: a polynomial modulo 2^64."""
    hashes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)
    for width in _WIDTHS:
        yield width, hashes
        hashes = hashes[:-width] * np.uint64(pow(_BASE, width, 2**64)) + hashes[width:]


def _short(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
