"""Words of a text in any script.

Spaces separate words, but not in all scripts. Where they do not, or not always, a few characters count as a word, about
as many as a word has on average.
"""

from __future__ import annotations

import re
from itertools import islice

# Han, kana, bopomofo, Yi.
_SHORT = (
    "\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3040-\u312f\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\ua000-\ua4cf\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff"
)
# Thai, Lao, Tibetan, Burmese, Khmer, Tai Le, New Tai Lue, Tai Tham, Balinese, Javanese, Tai Viet; Hangul, in which
# spaces are often left out.
_LONG = (
    "\u0e00-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"
    "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"
)
SHORT, LONG = 2, 4  # characters of a word; 20 characters make four words in any of these scripts
# Punctuation and vowel signs belong to the adjacent word. In other scripts, a word is everything between spaces.
_WORD = re.compile(rf"[^\w\s]*(?:[{_SHORT}]{{1,{SHORT}}}|[{_LONG}]{{1,{LONG}}})[^\w\s]*|[^\s{_SHORT}{_LONG}]+")
_LETTER = re.compile(r"[^\W_]")


def word_count(text: str) -> int:
    """Number of words with a letter or digit."""
    return sum(_LETTER.search(word) is not None for word in _WORD.findall(text))


def first_words(text: str, count: int) -> str:
    """The text up to the end of word number `count`; all of it if it has fewer words."""
    last = next(islice(_WORD.finditer(text), count - 1, None), None)
    return text[: last.end()] if last else text
