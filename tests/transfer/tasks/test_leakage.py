"""Leaking rows against their definition, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompttransfer.tasks import leakage
from prompttransfer.tasks.leakage import leaking_rows, normalize
from prompttransfer.tasks.templates import shorten
from prompttransfer.tasks.words import word_count


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.lower()))


def words(text: str) -> int:
    """In scripts with spaces between words."""
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
# A piece of a long row, so that rows contain each other, which random rows seldom do.
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


@given(st.text(st.characters(codec="cp1253"), max_size=30))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_letters_and_words_of_texts_with_blanks(text: str) -> None:
    assert normalize(text) == letters(text) and word_count(text) == words(text)


# A piece of text, and how many words it is.
CHINESE = st.text("手机很好のカｶ々", min_size=1, max_size=9).map(lambda text: (text, -(-len(text) // 2)))
THAI = st.text("กขคงใລາမယབ가나", min_size=1, max_size=9).map(lambda text: (text, -(-len(text) // 4)))
ENGLISH = st.sampled_from([("a", 1), ("Ab1-é,", 1), ("(x", 1), ("two words", 2), (" - ", 0), ("…", 0)])


@given(st.lists(CHINESE | THAI | ENGLISH, max_size=8), st.sampled_from([" ", "\n", "\u3000", " 。"]))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_words_of_texts_of_several_scripts(pieces: list[tuple[str, int]], between: str) -> None:
    assert word_count(between.join(text for text, _ in pieces)) == sum(count for _, count in pieces)
    # No blank is needed where the script changes.
    assert word_count("ab手机很ขคงใກabc。") == 1 + 2 + 2 + 1


TEXTS = {
    "Chinese": "这部电影的剧情非常精彩、而且演员的表演也令人难忘、我会推荐给朋友。",
    "Japanese": "この映画の物語はとても素晴らしく、俳優の演技も忘れられない。友達に勧めたい。",
    "Korean": "이 영화는 정말 재미있었고배우들의연기도훌륭했습니다 친구들에게 추천하고싶어요.",
    "Thai": "ภาพยนตร์เรื่องนี้สนุกมากและนักแสดงเล่นได้ดีมากจริงๆค่ะ แต่ตอนจบไม่ค่อยน่าประทับใจ",
    "Lao": "ໜັງເລື່ອງນີ້ມ່ວນຫຼາຍແລະນັກສະແດງກໍ່ເກັ່ງຫຼາຍແຕ່ຕອນຈົບບໍ່ຄ່ອຍດີປານໃດ",
    "Khmer": "ភាពយន្តនេះពិតជាល្អណាស់ហើយតារាសម្តែងក៏ពូកែខ្លាំងណាស់ដែរប៉ុន្តែចុងបញ្ចប់មិនសូវល្អទេ",
    "Burmese": "ဒီရုပ်ရှင်ဟာအရမ်းကောင်းပြီးသရုပ်ဆောင်တွေလည်းအရမ်းတော်ကြပါတယ်",
    "Tibetan": "གློག་བརྙན་འདི་ཧ་ཅང་ཡག་པོ་འདུག་འཁྲབ་སྟོན་པ་ཚོས་ཀྱང་ཡག་པོ་འཁྲབ་འདུག",
    "Chinese and English": "这部电影的BGM非常精彩、the best of 2024、我会推荐给朋友。",
}


@pytest.mark.parametrize("name", TEXTS)
def test_twenty_characters_leak_in_any_script(name: str) -> None:
    text = TEXTS[name]
    assert min(word_count(text[start : start + 20]) for start in range(len(text) - 19)) >= 4
    part = text[7:27]
    assert leaking_rows([text, "…"], [part]) == leaking_rows([part], [text]) == {0}


def test_a_few_characters_leak_in_no_script() -> None:
    assert (
        leaking_rows(
            ["这部电影的剧情非常精彩", "ภาพยนตร์เรื่องนี้", "재미있었고배우들의"], ["非常精彩", "เรื่องนี้", "배우들의"]
        )
        == set()
    )


def test_words_are_cut_in_any_script() -> None:
    assert shorten("这部电影的剧情非常精彩。", 3) == "这部电影的剧"
    assert shorten("「很好」、真的 很好", 2) == "「很好」、真的"
    assert shorten("the iPhone手机很好 yes", 3) == "the iPhone手机"
    assert shorten("a - b, c\td", 3) == "a - b,"
    assert shorten("영화는 재미있었고배우들의", 2) == "영화는 재미있었"
    # A vowel sign stays with its letter.
    assert shorten("ก" * 3 + "กี่" + "ข" * 9, 1) == "ก" * 3 + "กี่"
    for text in TEXTS.values():
        assert shorten(text, 1000) == text
        cut = [shorten(text, count) for count in range(1, 12)]
        assert all(text.startswith(part) for part in cut) and [*map(len, cut)] == sorted({*map(len, cut)})


def test_letters_of_every_character() -> None:
    assert not [sign for sign in map(chr, range(0x110000)) if normalize(sign) != letters(sign)]
