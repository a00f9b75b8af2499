"""Readers of the fields of a row: a function of the row beside the names of the columns that it needs.

Formats: the code of ATTEMPT (Asai et al. 2022), which follows Compacter and T5, without its defects: WinoGrande shows
both options, and the sets of MRQA are read as they are on the hub.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prompttransfer.files.excerpt import shown
from prompttransfer.tasks.papers.spec import BadRow, Inputs, Label, References, Row


def named(columns: Mapping[str, str], clean: Callable[[str], str] = str.strip) -> Inputs:
    """Texts by name, each from its column."""

    def read(row: Row) -> dict[str, str]:
        return {name: clean(_text(row, column)) for name, column in columns.items()}

    return Inputs(tuple(columns), tuple(columns.values()), read)


def class_label(classes: int) -> Label:
    """An index of 0..classes-1 in the column label."""
    wanted = f"want one of {', '.join(map(str, range(classes)))}"

    def read(row: Row) -> int:
        value = row["label"]
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if value == -1:
            raise BadRow("label", f"got -1, which marks the rows of a hidden test set; {wanted}")
        if value is None or isinstance(value, str) or value not in range(classes):
            raise BadRow("label", f"got {_shown(value)}, {wanted}")
        return int(value)

    return Label(("label",), read)


def without_markup(text: str) -> str:
    """MultiRC without its HTML: a line break is a space, bold is nothing."""
    return re.sub(r"</?b>", "", re.sub(r"<br\s*/?>", " ", text)).strip()


def pad_punctuation(text: str) -> str:
    """Spaces around everything but letters, digits, underscores and accents; single spaces."""

    def padded(match: re.Match[str]) -> str:
        accent = unicodedata.category(match[0]).startswith("M")
        return match[0] if accent else f" {match[0]} "

    return " ".join(re.sub(r"[^\w\s]", padded, text).split())


def _wsc(row: Row) -> dict[str, str]:
    """The noun between asterisks and the pronoun between hashes."""
    text = _text(row, "text")
    places = [(_place(row, text, span), mark) for span, mark in (("span1", "*"), ("span2", "#"))]
    for (start, end), mark in sorted(places, reverse=True):  # from the end, so that places before stay true
        text = f"{text[:start]}{mark} {text[start:end]} {mark}{text[end:]}"
    return {"text": text}


def _place(row: Row, text: str, span: str) -> tuple[int, int]:
    """Characters of a span: at its word if the text has it there, else where it occurs first."""
    wanted, index = _text(row, f"{span}_text"), row[f"{span}_index"]
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    if not isinstance(index, int) or not 0 <= index < len(starts):
        raise BadRow(f"{span}_index", f"got {shown(index)}, want the number of a word below {len(starts)}")
    start = starts[index]
    if not text[start:].lower().startswith(wanted.lower()):
        start = text.lower().find(wanted.lower())
    if not wanted or start < 0:
        raise BadRow(f"{span}_text", f"got {shown(wanted)}, want words of the text {shown(text)}")
    return start, start + len(wanted)


def _record(row: Row) -> dict[str, str]:
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", _text(row, "passage")).replace("\n@highlight\n", ". ")
    return {"query": _text(row, "query"), "entities": ", ".join(_texts(row, "entities")), "passage": passage}


def _options(question: str, most: int) -> Inputs:
    """A question and its options: choice1, choice2, ... (some rows of ARC have fewer)."""

    def read(row: Row) -> dict[str, str]:
        texts = _nested(row, "choices", "text")
        if not 2 <= len(texts) <= most or not all(isinstance(text, str) and text.strip() for text in texts):
            raise BadRow("choices.text", f"got {shown(texts)}, want 2 to {most} texts")
        return {"question": _text(row, question)} | {
            f"choice{number}": text.strip() for number, text in enumerate(texts, start=1)
        }

    return Inputs(("question", *(f"choice{number + 1}" for number in range(most))), (question, "choices"), read)


def _triples(row: Row) -> dict[str, str]:
    sets = _nested(row, "modified_triple_sets", "mtriple_set")
    # One set of triples, which the hub keeps in a list.
    triples = _texts({"modified_triple_sets": sets[0] if sets else None}, "modified_triple_sets")
    return {"triples": " ; ".join(triples)}


INPUTS = {
    "multirc": named({"question": "question", "answer": "answer", "paragraph": "paragraph"}, without_markup),
    "wsc": Inputs(("text",), ("text", "span1_text", "span1_index", "span2_text", "span2_index"), _wsc),
    "record": Inputs(("query", "entities", "passage"), ("query", "entities", "passage"), _record),
    "padded": named({"question": "question", "context": "context"}, pad_punctuation),
    "commonsenseqa": _options("question", 5),
    "openbookqa": _options("question_stem", 4),
    "arc": _options("question", 5),
    "commongen": Inputs(("concepts",), ("concepts",), lambda row: {"concepts": ", ".join(_texts(row, "concepts"))}),
    "webnlg": Inputs(("triples",), ("modified_triple_sets",), _triples),
}

# STS-B: the nearest of 0.0, 0.1, ..., 5.0, halves to the even one. The published code means steps of 0.2, and rounds to
# 0.1 all the same.
SIMILARITIES = tuple(f"{step / 10:.1f}" for step in range(51))


def _similarity(row: Row) -> int:
    value = row["label"]
    if not isinstance(value, (int, float)) or not 0 <= value <= 5:
        wanted = "want a number from 0 to 5 (-1 marks the rows of a hidden test set)"
        raise BadRow("label", f"got {_shown(value)}, {wanted}")
    return round(value * 10)


def _one_of(column: str, *labels: str) -> Label:
    """A label that the set writes as a text."""
    return Label((column,), lambda row: _index(column, row[column], labels))


def _index(column: str, value: Any, labels: Sequence[Any]) -> int:
    if value in (None, "") or value not in labels:
        raise BadRow(column, f"got {_shown(value or None)}, want one of {', '.join(map(shown, labels))}")
    return labels.index(value)


def _answer_key(row: Row) -> int:
    return _index("answerKey", row["answerKey"], _nested(row, "choices", "label"))


def _each_answer(column: str, *, merged: bool) -> References:
    """A text, or a list of texts; each is an answer to learn."""

    def read(row: Row) -> list[str]:
        return [_text(row, column)] if isinstance(row[column], str) else _texts(row, column)

    return References((column,), read, every=True, merged=merged)


def _spans(row: Row) -> list[str]:
    """Answers of SQuAD (a structure with texts) or MRQA (texts).

    What is learned is padded as the context is. The answer as it stands counts as right too: the score removes
    punctuation, so that "U.S." and "U . S ." differ by a space.
    """
    value = row["answers"]
    plain = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
    texts = _texts(row if plain else {"answers": _nested(row, "answers", "text")}, "answers")
    return list(dict.fromkeys([*map(pad_punctuation, texts), *texts]))


def _lexicalisations(row: Row) -> list[str]:
    return _texts({"lex": _nested(row, "lex", "text")}, "lex")


TARGETS: dict[str, Label | References] = {
    "similarity": Label(("label",), _similarity),
    "winogrande": _one_of("answer", "1", "2"),
    "scitail": _one_of("gold_label", "entailment", "neutral"),
    "answer key": Label(("choices", "answerKey"), _answer_key),
    "record": _each_answer("answers", merged=False),
    "spans": References(("answers",), _spans),
    "e2e": _each_answer("human_reference", merged=True),
    "webnlg": References(("lex",), _lexicalisations, every=True, merged=True),
    "commongen": _each_answer("target", merged=True),
}


def _text(row: Row, column: str) -> str:
    """A column that holds a text, stripped; it may be empty."""
    if not isinstance(row[column], str):
        raise BadRow(column, f"got {_shown(row[column])}, want a text")
    return row[column].strip()


def _texts(row: Row, column: str) -> list[str]:
    """A column that holds a list of texts, stripped, without empty ones."""
    value = row[column]
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise BadRow(column, f"got {_shown(value)}, want a list of texts")
    return [item.strip() for item in value if item.strip()]


def _nested(row: Row, column: str, key: str) -> list[Any]:
    """A list in a column, whether it is stored as a structure of lists or as a list of structures."""
    value = row[column]
    try:
        return list(value[key]) if isinstance(value, Mapping) else [item[key] for item in value]
    except (KeyError, TypeError):
        raise BadRow(f"{column}.{key}", f"got {_shown(value)}, want a list") from None


def _shown(value: Any) -> str:
    return "nothing" if value is None else shown(value)
