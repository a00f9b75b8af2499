"""Which of the choices a label in a file stands for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prompttransfer.tasks.cells import ClassName, Misfit, label_of

MAX_CHOICES = 100

_NUMBER_OF_TRUTH = {"true": "1", "false": "0"}


class Labels:
    """The answers of a task, and what the labels in its files mean.

    A label is found as it is written, else without regard to case, else, where the answers are known by their number,
    by that of a ClassLabel, or by 1 and 0 for true and false.
    """

    def __init__(self, choices: Sequence[str], index: Mapping[str, int]) -> None:
        """choices: the answers; index: label, as `cells.label_of` writes it -> which of them."""
        self.choices = tuple(choices)
        self._index = dict(index)
        folded: dict[str, set[int]] = {}
        for label, number in index.items():
            folded.setdefault(label.casefold(), set()).add(number)
        self._folded = {label: numbers.pop() for label, numbers in folded.items() if len(numbers) == 1}

    def __call__(self, value: Any) -> int:
        """Index of the choice that a cell stands for.

        Raises:
            Misfit: nothing stands there, or a label that is none of the known ones.
        """
        label = label_of(value)
        if label in self._index:
            return self._index[label]
        others = [label.casefold(), _NUMBER_OF_TRUTH.get(label.casefold(), "")]
        if isinstance(value, ClassName):
            others.insert(0, str(value.number))
        for other in others:
            if other in self._folded:
                return self._folded[other]
        raise Misfit(f"got label {str(value).strip()!r}, want one of {', '.join(map(repr, self._index))}")

    @classmethod
    def of_mapping(cls, meanings: Mapping[str, str]) -> Labels:
        """From label -> answer; several labels may mean the same answer."""
        choices = list(dict.fromkeys(meanings.values()))
        return cls(choices, {label_of(label): choices.index(answer) for label, answer in meanings.items()})

    @classmethod
    def of_choices(cls, choices: Sequence[str], values: Iterable[Any]) -> Labels:
        """From the answers; whether the labels in the files are their names or their numbers, the training rows tell:
        what explains more different labels is meant."""
        names = {label_of(name): index for index, name in enumerate(choices)}
        numbers = {str(index): index for index in range(len(choices))}
        by_name, by_number = cls(choices, names), cls(choices, numbers)
        named, numbered = set(), set()
        for value in values:
            for labels, found in ((by_name, named), (by_number, numbered)):
                try:
                    found.add(labels(value))
                except Misfit:
                    continue
        return by_number if len(numbered) > len(named) else by_name

    @classmethod
    def of_values(cls, values: Iterable[Any], place: str) -> Labels:
        """The labels of the training rows are the answers: whole numbers by value, classes by number, else sorted.

        Raises:
            ValueError: there are not 2 to 100 of them; place says where.
        """
        seen: dict[str, int | None] = {}
        for value in values:
            try:
                seen.setdefault(label_of(value), getattr(value, "number", None))
            except Misfit:
                continue
            if len(seen) > MAX_CHOICES:
                break
        if not 2 <= len(seen) <= MAX_CHOICES:
            only = f"only the label {next(iter(seen))!r}" if len(seen) == 1 else "no label"
            got = f"more than {MAX_CHOICES} labels" if seen and len(seen) > 1 else only
            raise ValueError(f"{place}: got {got}, want 2 to {MAX_CHOICES} classes")
        if all(number is not None for number in seen.values()):
            ordered = sorted(seen, key=lambda label: seen[label])
        elif all(re.fullmatch(r"-?\d+", label) for label in seen):
            ordered = sorted(seen, key=int)
        else:
            ordered = sorted(seen)
        return cls(ordered, {label: index for index, label in enumerate(ordered)})
