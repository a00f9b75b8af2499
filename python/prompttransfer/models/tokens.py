"""Texts, cues and answers as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from prompttransfer.settings.joins import Join


class Tokens:
    """A tokenizer, as a model uses it. seq2seq: an encoder-decoder, whose answers are separate from the text."""

    def __init__(self, tokenizer: Any, *, seq2seq: bool) -> None:
        self.tokenizer = tokenizer
        self.seq2seq = seq2seq
        self._blank: dict[int, bool] = {}

    def texts(self, texts: Sequence[str], max_length: int, cut: str, cue: str) -> list[list[int]]:
        """Token ids of each text; arguments of `Backbone.encode`."""
        rows = self.tokenizer(list(texts), add_special_tokens=True)["input_ids"] if len(texts) else []
        before, behind = self._frame
        # Some tokenizers add a space before a text, so a cue that starts with one is tokenized after a letter.
        cued = self._continued("a" if cue[:1].isspace() else "", [cue])[0] if cue else []
        room = max(1, max_length - before - behind - len(cued))
        encoded = []
        for row in rows:
            end = len(row) - behind
            first, last = (max(before, end - room), end) if cut == "start" else (before, min(end, before + room))
            encoded.append([*row[:before], *row[first:last], *cued, *row[end:]])
        return encoded

    def answers(self, answers: Sequence[str], max_length: int | None, end: bool, join: Join | None) -> list[list[int]]:
        """Token ids of each answer; arguments and errors of `Backbone.encode_answers`."""
        texts = [answer.strip() for answer in answers]
        if self.seq2seq or join == "separate":
            rows = self._continued("", texts)
        elif join == "none":
            rows = self._continued("Answer:\n", texts)
        else:
            rows = self._continued("Answer:", [f" {text}".rstrip() for text in texts])
        last = [self.tokenizer.eos_token_id] if end and self.tokenizer.eos_token_id is not None else []
        encoded = []
        for answer, ids in zip(answers, rows, strict=True):
            if all(token == self.unknown or self._writes_space(token) for token in ids):
                raise ValueError(f"answer {answer!r} has no tokens in this model's vocabulary")
            encoded.append([*ids[:max_length], *last])
        return encoded

    @property
    def start(self) -> tuple[int, ...]:
        """Token ids that the tokenizer puts before every text."""
        return tuple(self.tokenizer("a", add_special_tokens=True)["input_ids"][: self._frame[0]])

    @property
    def unknown(self) -> int | None:
        """The unknown token; None if the vocabulary covers any text."""
        token: int | None = self.tokenizer.unk_token_id
        # Byte-level tokenizers name one too, mostly the end token, but never produce it.
        return None if token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id) else token

    def mostly_unknown(self, texts: Sequence[str]) -> int:
        """Number of texts of which the vocabulary lacks more than half of the characters, ignoring white space."""
        if self.unknown is None or not len(texts):
            return 0
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        known = self.tokenizer.batch_decode([[token for token in row if token != self.unknown] for row in rows])
        return sum(
            self.unknown in row and 2 * _characters(read) < _characters(text)
            for text, row, read in zip(texts, rows, known, strict=True)
        )

    @cached_property
    def _frame(self) -> tuple[int, int]:
        """Number of tokens that the tokenizer puts before and after every text."""
        framed, alone = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
        more = len(framed) - len(alone)
        before = next((n for n in range(more, 0, -1) if framed[n : n + len(alone)] == alone), 0)
        return before, max(0, more - before)

    def _continued(self, context: str, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text after a context, without those of the context."""
        lead = self.tokenizer(context, add_special_tokens=False)["input_ids"] if context else []
        rows = self.tokenizer([context + text for text in texts], add_special_tokens=False)["input_ids"]
        return [ids[_common_prefix(lead, ids) :] for ids in rows]

    def _writes_space(self, token: int) -> bool:
        if token not in self._blank:
            self._blank[token] = not _characters(self.tokenizer.decode([token]))
        return self._blank[token]


def _characters(text: str) -> int:
    """Number of characters, without white space and the mark for a space in some vocabularies."""
    return sum(not letter.isspace() and letter != "▁" for letter in text)


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count
