"""Training rows that overlap with rows that a prompt is judged on.

Some public sets are cut from the same texts (SST-2 and the movie snippets, for instance). A training row leaks when it
contains a test row or is contained in one, after lower-casing and removing everything but letters and digits. The inner
one must have at least four words: that "good" stands in another text means nothing. Shorter ones leak when equal.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from datasets import Dataset

from prompttransfer.tasks.task import Task

MIN_WORDS = 4
_PREFIX = 16


def normalize(text: str) -> str:
    """Lower-cased letters and digits only."""
    return "".join(filter(str.isalnum, text.lower()))


def word_count(text: str) -> int:
    """Words with a letter or digit."""
    return sum(map(bool, map(normalize, text.split())))


def leaking_rows(train: Sequence[str], test: Sequence[str]) -> set[int]:
    """Indices of the train texts that contain a test text, are contained in one, or equal one; see above.

    Texts without a letter or digit never leak.

    Exact, and linear in the number of characters: a text can only contain another at places where its next 16
    characters are the first 16 of the other, which a dictionary answers.
    """
    trains, tests = [normalize(text) for text in train], [normalize(text) for text in test]
    known = set(filter(None, tests))
    equal = {index for index, text in enumerate(trains) if text in known}
    containing = {outer for outer, _ in _containments(trains, _long(tests, test))}
    contained = {inner for _, inner in _containments(tests, _long(trains, train))}
    return equal | containing | contained


def drop_leaks(task: Task, others: Iterable[Task] = ()) -> Task:
    """The task without training rows that leak rows it is judged on, its own or those of `others` (its targets).

    Validation rows that leak test rows go, and training rows that leak test or validation rows.
    """
    judges = (task, *others)
    tests = [text for judge in judges for text in judge.test["raw"]]
    validations = [text for judge in judges for text in judge.validation["raw"]]

    def kept(split: Dataset, judged: Sequence[str]) -> list[int]:
        leaking = leaking_rows(split["raw"], judged)
        return [row for row in range(len(split)) if row not in leaking]

    return task.select_training(kept(task.train, [*tests, *validations]), kept(task.validation, tests))


def _long(normalized: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The normalized texts, with nothing in place of those of too few words to be looked for."""
    return [norm if word_count(text) >= MIN_WORDS else "" for norm, text in zip(normalized, texts, strict=True)]


def _containments(outers: Sequence[str], inners: Sequence[str]) -> Iterable[tuple[int, int]]:
    """All pairs (outer, inner) where the inner text, unless it is empty, stands in the outer one."""
    by_length: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, text in enumerate(inners):
        if text:
            length = min(len(text), _PREFIX)
            by_length[length][text[:length]].append(index)
    for length, prefixes in by_length.items():
        for outer, text in enumerate(outers):
            for start in range(len(text) - length + 1):
                candidates = prefixes.get(text[start : start + length])
                if candidates:
                    for inner in candidates:
                        if text.startswith(inners[inner], start):
                            yield outer, inner
