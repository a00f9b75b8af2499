"""A task in a model's tokens: how answers are distinguished, and which tokens are trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny import VOCABULARY, toy_task

from prompttransfer.files.store import Store
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.rows import EncodedRow
from prompttransfer.models.tokens import Tokens
from prompttransfer.tasks.task import Example, Task, to_dataset

END = VOCABULARY.index("</s>")


def ids(text: str) -> tuple[int, ...]:
    return tuple(map(VOCABULARY.index, text.split()))


def choosing(*choices: str) -> Task:
    rows = to_dataset([Example("w1 w2", "w1 w2", index % len(choices)) for index in range(4)])
    return Task("t", rows, rows, rows, choices)


def test_first_tokens_are_enough_where_they_differ(backbone: Backbone) -> None:
    encoded = EncodedTask.of(choosing("no w1", "yes w1"), backbone)
    assert encoded.scoring == "first-token" and encoded.answers == (ids("no"), ids("yes"))
    assert encoded.train[1].answer == ids("yes") and len(encoded.train[0].ids) == 2


@pytest.mark.parametrize("scoring", ["auto", "first-token"])
def test_what_all_answers_start_with_belongs_to_the_text(llama: Backbone, scoring: str) -> None:
    encoded = EncodedTask.of(choosing("no w1", "no w2 w3"), llama, scoring)
    assert encoded.scoring == "first-token" and encoded.answers == (ids("w1"), ids("w2"))
    assert list(encoded.train[:2]) == [EncodedRow(ids("w1 w2 no"), ids("w1")), EncodedRow(ids("w1 w2 no"), ids("w2"))]
    assert set(encoded.test) == {ids("w1 w2 no")}
    assert {len(row.ids) for row in EncodedTask.of(replace(choosing("no w1", "no w2"), max_length=1), llama).train} == {
        2
    }


def test_a_cue_stands_between_text_and_answer_and_is_never_cut(llama: Backbone, t5: Backbone) -> None:
    cued = replace(choosing("no w1", "yes"), cue=" w8 w9 ")
    encoded = EncodedTask.of(cued, llama)
    assert list(encoded.train[:2]) == [
        EncodedRow(ids("w1 w2 w8 w9"), ids("no")),
        EncodedRow(ids("w1 w2 w8 w9"), ids("yes")),
    ]
    assert set(encoded.test) == {ids("w1 w2 w8 w9")} and encoded.cue == cued.cue
    for cut, kept in (("start", "w2"), ("end", "w1")):
        assert EncodedTask.of(replace(cued, max_length=3, cut=cut), llama).test[0] == ids(f"{kept} w8 w9")
    alike = replace(choosing("no w1", "no w2"), cue="w8")
    assert EncodedTask.of(alike, llama, "first-token").test[0] == ids("w1 w2 w8 no")
    with pytest.raises(ValueError, match="cue: got ' w8 w9 ' for an encoder-decoder"):
        EncodedTask.of(cued, t5)


@pytest.mark.parametrize("scoring", ["full", "generate"])
def test_answers_are_read_whole_when_asked(backbone: Backbone, scoring: str) -> None:
    encoded = EncodedTask.of(choosing("no w1", "no w2"), backbone, scoring)
    assert encoded.scoring == scoring and encoded.test[0] == ids("w1 w2")
    assert encoded.answers == ((*ids("no w1"), END), (*ids("no w2"), END))
    assert [row.answer for row in encoded.train[:2]] == list(encoded.answers)


def test_answers_of_which_some_start_alike_are_read_whole(llama: Backbone) -> None:
    encoded = EncodedTask.of(choosing("no w1", "no w2", "yes"), llama)
    assert encoded.scoring == "full" and encoded.test[0] == ids("w1 w2")
    assert encoded.answers[2] == (*ids("yes"), END)
    # One is a prefix of the other, so the end token distinguishes them, not a first token.
    assert EncodedTask.of(choosing("no", "no no"), llama).answers == ((END,), ids("no"))


def test_an_encoder_decoder_model_writes_the_common_start_itself(t5: Backbone) -> None:
    encoded = EncodedTask.of(choosing("no w1", "no w2"), t5)
    assert encoded.scoring == "full" and encoded.answers[0][0] == encoded.answers[1][0]


def test_answers_that_cannot_be_told_apart_are_refused_by_name(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"'t': answers 'no w1' and 'no w2' start with the same token"):
        EncodedTask.of(choosing("no w1", "yes", "no w2"), backbone, "first-token")
    with pytest.raises(ValueError, match=r"'t': answers 'no  w1' and 'no w1' are the same tokens"):
        EncodedTask.of(choosing("no  w1", "no w1"), backbone)
    with pytest.raises(ValueError, match="got 'last-token', want one of auto, first-token, full, generate"):
        EncodedTask.of(choosing("no", "yes"), backbone, "last-token")


def test_free_text_is_trained_on_whole_and_written(backbone: Backbone) -> None:
    rows = to_dataset([Example("w1", "w1 w2", answer="w3 w4 w5", references=("w3", "w4 w5"))])
    task = Task("t", rows, rows, rows, metric="exact-match", max_answer=2)
    encoded = EncodedTask.of(task, backbone)
    assert encoded.scoring == "generate" and encoded.references == (("w3", "w4 w5"),) and not encoded.choices
    assert list(encoded.train) == [EncodedRow(ids("w1 w2"), (*ids("w3 w4"), END))]


def test_a_task_says_how_long_its_texts_are(backbone: Backbone) -> None:
    task = replace(toy_task("t", 1), max_length=2)
    assert {len(row.ids) for row in EncodedTask.of(task, backbone).train} == {2}
    assert {len(row) for row in EncodedTask.of(task, backbone).test} == {2}


def test_a_task_without_rows_is_refused(backbone: Backbone) -> None:
    task = choosing("no", "yes")
    empty = replace(task, train=task.train.select([]))
    with pytest.raises(ValueError, match="'t' has 0 training and 4 test rows"):
        EncodedTask.of(empty, backbone)
    assert not EncodedTask.of(empty, backbone, trains=False).train


def test_tokens_of_many_rows_are_kept(backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prompttransfer.models.encoding._WORTH_KEEPING", 4)
    task, store = choosing("no w1", "no w2"), Store(tmp_path)
    fresh = EncodedTask.of(task, backbone)
    asked: list[int] = []
    original = Tokens.texts

    def counting(self: Tokens, texts: list[str], *rest: object) -> list[list[int]]:
        asked.append(len(texts))
        return original(self, texts, *rest)

    monkeypatch.setattr(Tokens, "texts", counting)
    for _ in range(2):
        assert list(EncodedTask.of(task, backbone, store=store).train) == list(fresh.train)
    assert asked == [4, 4, 4], "the test rows twice, the training rows once"
    other = replace(task, choices=("no w1", "yes w2"))
    assert list(EncodedTask.of(other, backbone, "full", store=store).train) != list(fresh.train)
