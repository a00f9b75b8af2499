"""Training rows that give away a test row: one text contains the other, spelling and punctuation aside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from datasets import Dataset

_ANCHOR = 8


def normalised(text: str) -> str:
    """Lower-case letters and digits alone."""
    return "".join(character for character in text.lower() if character.isalnum())


class TestTexts:
    """Test texts, indexed so that containment in either direction is found without comparing all pairs."""

    __test__ = False  # not a pytest class

    def __init__(self, texts: Iterable[str]) -> None:
        tests = {normalised(text) for text in texts} - {""}
        self._all = "\n".join(tests)
        self._short = [test for test in tests if len(test) < _ANCHOR]
        self._by_anchor: dict[str, list[str]] = defaultdict(list)
        for test in tests:
            if len(test) >= _ANCHOR:
                self._by_anchor[test[:_ANCHOR]].append(test)

    def leaks(self, text: str) -> bool:
        """Whether a test text contains this one or is contained in it (an empty text is in nothing)."""
        row = normalised(text)
        if not row:
            return False
        if row in self._all or any(test in row for test in self._short):
            return True
        return any(
            row.startswith(test, at)
            for at in range(len(row) - _ANCHOR + 1)
            for test in self._by_anchor.get(row[at : at + _ANCHOR], ())
        )


def drop_leaks(train: Dataset, tests: Iterable[Dataset]) -> tuple[Dataset, int]:
    """Training rows without those that leak a row of the test sets (column raw), and how many were dropped."""
    index = TestTexts(text for test in tests for text in test["raw"])
    kept = [number for number, text in enumerate(train["raw"]) if not index.leaks(text)]
    return train.select(kept), len(train) - len(kept)
