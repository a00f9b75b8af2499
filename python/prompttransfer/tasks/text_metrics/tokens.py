"""Words and n-grams for the metrics of generated text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

Gram = tuple[str, ...]


def tokenize(text: str) -> list[str]:
    """Tokens of the mteval-v13a script, in lower case."""
    return _tokenizer()(text.lower()).split()


def words(text: str) -> list[str]:
    """Tokens that have a letter or digit."""
    return [token for token in tokenize(text) if any(map(str.isalnum, token))]


def ngrams(tokens: Sequence[str], size: int) -> Counter[Gram]:
    """Count of each run of `size` tokens."""
    return Counter(tuple(tokens[first : first + size]) for first in range(len(tokens) - size + 1))


@cache
def _tokenizer() -> Any:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()
