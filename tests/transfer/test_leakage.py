"""Leaking rows against their definition, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompttransfer.tasks import leakage
from prompttransfer.tasks.leakage import leaking_rows, normalize, word_count


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def words(text: str) -> int:
    return sum(bool(letters(word)) for word in text.split())


def by_definition(train: Sequence[str], test: Sequence[str]) -> set[int]:
    return {
        index
        for index, mine in enumerate(train)
        for its in test
        if letters(mine)
        and letters(its)
        and (
            letters(mine) == letters(its)
            or (letters(its) in letters(mine) and words(its) >= 4)
            or (letters(mine) in letters(its) and words(mine) >= 4)
        )
    }


WORDS = st.lists(st.sampled_from(["a", "b", "Ab", "ä", "-", "x" * 17, "y" * 70, "\U0001d5181"]), max_size=9)
# A piece of a long row, so that rows stand in each other; alone, random rows seldom do.
ROWS = st.lists(WORDS.map(" ".join), max_size=8)


@pytest.mark.parametrize("size", [1, 40, 10**6])
@given(train=ROWS, test=ROWS, cut=st.tuples(st.integers(0, 40), st.integers(0, 40)))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_leaks_are_those_of_the_definition(size: int, train: list[str], test: list[str], cut: tuple[int, int]) -> None:
    train = [*train, *(text[slice(*sorted(cut))] for text in test)]
    test = [*test, *(f"a {text} b" for text in train[:2])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leakage, "_CHUNK", size)
        patch.setattr(leakage, "_BLOCK", size)
        assert leaking_rows(train, test) == by_definition(train, test)


def test_long_texts_are_found_to_their_last_letter() -> None:
    text = "every word of this long text is of some weight to those who look for all of it, from end to end"
    inside = f"before it {text} and after it"
    almost = inside.replace("to end and", "to And and")
    assert leaking_rows([inside, almost, text[:-1]], [text]) == {0, 2}
    assert leaking_rows([text, f"{text} x"], [almost, inside]) == {0}


@given(st.text(max_size=30))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_letters_and_words_of_any_text(text: str) -> None:
    assert normalize(text) == letters(text) and word_count(text) == words(text)


def test_letters_of_every_character() -> None:
    assert not [sign for sign in map(chr, range(0x110000)) if normalize(sign) != letters(sign)]
