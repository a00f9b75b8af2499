"""Fields of the sets whose text is more than its columns: SuperGLUE's MultiRC, WSC and ReCoRD, SQuAD, multiple choice,
and the sets of generation.

Formats: the code of ATTEMPT (Asai et al. 2022), which follows Compacter and T5, without its defects: WinoGrande shows
both options, and the sets of MRQA are read as they are on the hub.
"""

from __future__ import annotations

import re
import unicodedata

from prompttransfer.files.excerpt import shown
from prompttransfer.tasks.papers.spec import BadRow, Inputs, Label, References, Row, nested, strings_of, text_of

_LETTERS = ("A", "B", "C", "D", "E")


def without_markup(text: str) -> str:
    """MultiRC without its HTML: a line break is a space, bold is nothing."""
    return re.sub(r"</?b>", "", re.sub(r"<br\s*/?>", " ", text)).strip()


def pad_punctuation(text: str) -> str:
    """Spaces around everything but letters, digits, underscores and accents; single spaces."""

    def padded(match: re.Match[str]) -> str:
        accent = unicodedata.category(match[0]).startswith("M")
        return match[0] if accent else f" {match[0]} "

    return " ".join(re.sub(r"[^\w\s]", padded, text).split())


def _marked() -> Inputs:
    columns = ("text", "span1_text", "span1_index", "span2_text", "span2_index")

    def read(row: Row) -> dict[str, str]:
        text = text_of(row, "text")
        places = [(_place(row, text, span), mark) for span, mark in (("span1", "*"), ("span2", "#"))]
        for (start, end), mark in sorted(places, reverse=True):  # from the end, so that places before stay true
            text = f"{text[:start]}{mark} {text[start:end]} {mark}{text[end:]}"
        return {"text": text}

    return Inputs(("text",), columns, read)


def _place(row: Row, text: str, span: str) -> tuple[int, int]:
    """Characters of a span: at its word if the text has it there, else where it occurs first."""
    wanted, index = text_of(row, f"{span}_text"), row[f"{span}_index"]
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    if not isinstance(index, int) or not 0 <= index < len(starts):
        raise BadRow(f"{span}_index", f"got {shown(index)}, want the number of a word below {len(starts)}")
    start = starts[index]
    if not text[start:].lower().startswith(wanted.lower()):
        start = text.lower().find(wanted.lower())
    if not wanted or start < 0:
        raise BadRow(f"{span}_text", f"got {shown(wanted)}, want words of the text {shown(text)}")
    return start, start + len(wanted)


WSC = _marked()


def _record() -> Inputs:
    def read(row: Row) -> dict[str, str]:
        passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", text_of(row, "passage"))
        return {
            "query": text_of(row, "query"),
            "entities": ", ".join(strings_of(row, "entities")),
            "passage": passage.replace("\n@highlight\n", ". "),
        }

    return Inputs(("query", "entities", "passage"), ("query", "entities", "passage"), read)


RECORD = _record()


def each_answer(column: str, *, merged: bool = False) -> References:
    """A text, or a list of texts; each is an answer to learn."""

    def read(row: Row) -> list[str]:
        return [text_of(row, column)] if isinstance(row[column], str) else strings_of(row, column)

    return References((column,), read, every=True, merged=merged)


def spans(column: str = "answers") -> References:
    """Answers of SQuAD (a structure with texts) or MRQA (texts).

    What is learned is padded as the context is. The answer as it stands counts as right too: the score removes
    punctuation, so that "U.S." and "U . S ." differ by a space.
    """

    def read(row: Row) -> list[str]:
        plain = isinstance(row[column], (list, tuple)) and all(isinstance(item, str) for item in row[column])
        texts = strings_of(row if plain else {column: nested(row, column, "text")}, column)
        return list(dict.fromkeys([*map(pad_punctuation, texts), *texts]))

    return References((column,), read)


def options(question: str, choices: int) -> Inputs:
    """A question and its options: choice1, choice2, ... (some rows of ARC have fewer)."""

    def read(row: Row) -> dict[str, str]:
        texts = nested(row, "choices", "text")
        if not 2 <= len(texts) <= choices or not all(isinstance(text, str) and text.strip() for text in texts):
            raise BadRow("choices.text", f"got {shown(texts)}, want 2 to {choices} texts")
        named = {f"choice{number}": text.strip() for number, text in enumerate(texts, start=1)}
        return {"question": text_of(row, question), **named}

    names = ("question", *(f"choice{number}" for number in range(1, choices + 1)))
    return Inputs(names, (question, "choices"), read)


def _answer_key() -> Label:
    def read(row: Row) -> int:
        labels, key = nested(row, "choices", "label"), row["answerKey"]
        if key not in labels:
            got = "nothing" if key in (None, "") else shown(key)
            raise BadRow("answerKey", f"got {got}, want one of {', '.join(map(shown, labels))}")
        return labels.index(key)

    return Label(("choices", "answerKey"), read)


ANSWER_KEY = _answer_key()


def letters(choices: int) -> tuple[str, ...]:
    """Verbalisers in words of options."""
    return _LETTERS[:choices]


def _similarity() -> Label:
    def read(row: Row) -> int:
        value = row["label"]
        if not isinstance(value, (int, float)) or not 0 <= value <= 5:
            got = "nothing" if value is None else shown(value)
            raise BadRow("label", f"got {got}, want a number from 0 to 5 (-1 marks the rows of a hidden test set)")
        return round(value * 10)

    return Label(("label",), read)


# STS-B: the nearest of 0.0, 0.1, ..., 5.0, halves to the even one. The published code means steps of 0.2, and rounds to
# 0.1 all the same.
SIMILARITY = _similarity()
SIMILARITIES = tuple(f"{step / 10:.1f}" for step in range(51))


def _concepts() -> Inputs:
    return Inputs(("concepts",), ("concepts",), lambda row: {"concepts": ", ".join(strings_of(row, "concepts"))})


CONCEPTS = _concepts()


def _triples() -> Inputs:
    def read(row: Row) -> dict[str, str]:
        sets = nested(row, "modified_triple_sets", "mtriple_set")
        # One set of triples, which the hub keeps in a list.
        triples = strings_of({"modified_triple_sets": sets[0] if sets else None}, "modified_triple_sets")
        return {"triples": " ; ".join(triples)}

    return Inputs(("triples",), ("modified_triple_sets",), read)


TRIPLES = _triples()


def _lexicalisations() -> References:
    def read(row: Row) -> list[str]:
        return strings_of({"lex": nested(row, "lex", "text")}, "lex")

    return References(("lex",), read, every=True, merged=True)


LEXICALISATIONS = _lexicalisations()
