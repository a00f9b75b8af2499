"""Map the labels in a file to the choices of a task."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from prompttransfer.files.excerpt import listed, shown
from prompttransfer.tasks.cells import ClassName, Misfit, label_of, text_of

MAX_CHOICES = 100

_NUMBER_OF_TRUTH = {"true": "1", "false": "0"}
_TRUTHS = {*_NUMBER_OF_TRUTH, *_NUMBER_OF_TRUTH.values()}
_SHOWN = 5  # largest number of notes of a kind, and of spellings in a note


class Labels:
    """The answers of a task, and the meaning of the labels in its files.

    A label is looked up as written, then ignoring case. If the labels are numbers, a ClassLabel is also looked up by
    its number, and true and false as 1 and 0.
    """

    def __init__(self, choices: Sequence[str], index: Mapping[str, int], notes: Sequence[str] = ()) -> None:
        """choices: the answers; index: maps a label, as written by `cells.label_of`, to the index of its answer; notes:
        notes on the labels for the user."""
        self.choices = tuple(choices)
        self.notes = tuple(notes)
        self._index = dict(index)
        folded: dict[str, set[int]] = {}
        for label, number in index.items():
            folded.setdefault(label.casefold(), set()).add(number)
        self._folded = {label: numbers.pop() for label, numbers in folded.items() if len(numbers) == 1}

    def __call__(self, value: Any) -> int:
        """Index of the choice for a cell. Raises Misfit for an empty cell or an unknown label."""
        label = label_of(value)
        if label in self._index:
            return self._index[label]
        others = [label.casefold(), _NUMBER_OF_TRUTH.get(label.casefold(), "")]
        if isinstance(value, ClassName):
            others.insert(0, str(value.number))
        for other in others:
            if other in self._folded:
                return self._folded[other]
        raise Misfit(f"got label {shown(str(value).strip())}, want one of {listed(self._index)}")

    @classmethod
    def of_mapping(cls, meanings: Mapping[str, str]) -> Labels:
        """Build from a mapping of labels to answers. Several labels may have the same answer."""
        choices = list(dict.fromkeys(meanings.values()))
        return cls(choices, {label_of(label): choices.index(answer) for label, answer in meanings.items()})

    @classmethod
    def of_choices(cls, choices: Sequence[str], values: Iterable[Any]) -> Labels:
        """Build from the answers. The labels in the files are their names or their numbers: whichever explains more of
        the distinct labels in the training rows."""
        labels = [label_of(name) for name in choices]
        # Two answers such as 1.1 and 1.10 are the same label, which then identifies neither.
        names = {label: index for index, label in enumerate(labels) if labels.count(label) == 1}
        numbers = {str(index): index for index in range(len(choices))}
        by_name, by_number = cls(choices, names), cls(choices, numbers)
        named, numbered = set(), set()
        for value in values:
            for known, explained in ((by_name, named), (by_number, numbered)):
                try:
                    explained.add(known(value))
                except Misfit:
                    continue
        return by_number if len(numbered) > len(named) else by_name

    @classmethod
    def of_values(cls, values: Iterable[Any], place: str) -> Labels:
        """Use the labels of the training rows as answers: numbers by value, classes by number, others sorted."""
        seen: dict[str, int | None] = {}
        spellings: dict[str, dict[str, None]] = {}
        for value in values:
            try:
                label = label_of(value)
            except Misfit:
                continue
            seen.setdefault(label, getattr(value, "number", None))
            if len(seen) > MAX_CHOICES:
                break
            ways = spellings.setdefault(label, {})
            if len(ways) < _SHOWN:
                ways[text_of(value).strip()] = None
        if len(seen) > 2 and seen.keys() <= _TRUTHS:
            seen = {"0": None, "1": None}  # the names under which `Labels` looks up true and false
        if not 2 <= len(seen) <= MAX_CHOICES:
            only = f"only the label {shown(next(iter(seen)))}" if len(seen) == 1 else "no label"
            got = f"more than {MAX_CHOICES} labels" if seen and len(seen) > 1 else only
            raise ValueError(f"{place}: got {got}, want 2 to {MAX_CHOICES} classes")
        if all(number is not None for number in seen.values()):
            ordered = sorted(seen, key=lambda label: seen[label])
        elif all(re.fullmatch(r"-?\d+(\.\d+)?", label) for label in seen):
            ordered = sorted(seen, key=Decimal)
        else:
            ordered = sorted(seen)
        return cls(ordered, {label: index for index, label in enumerate(ordered)}, _notes(spellings))


def _notes(spellings: Mapping[str, Mapping[str, None]]) -> list[str]:
    """Notes on what you may not expect: spellings that count as one label, and labels that differ only in case."""
    cases: dict[str, list[str]] = {}
    for label in spellings:
        cases.setdefault(label.casefold(), []).append(label)
    joined = [f"labels {listed(ways)} are read as one" for ways in spellings.values() if len(ways) > 1]
    apart = [
        f"labels {listed(labels)} differ only in case and count as different (choices in a YAML description can give "
        "them one answer)"
        for labels in cases.values()
        if len(labels) > 1
    ]
    return [*joined[:_SHOWN], *apart[:_SHOWN]]
