"""Texts and answers as tokens: what stays of a long text, how an answer joins it, what a vocabulary lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import VOCABULARY, bpe_tokenizer, tiny_llama, tiny_t5
from transformers import PreTrainedTokenizerFast

from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.runs.jobs import task_facts
from prompttransfer.tasks.task import Example, Task, Wording, to_dataset

FRAMES = [((), ()), (("<s>",), ()), ((), ("</s>",)), (("<s>",), ("</s>",)), (("<s>", "<cls>"), ("</s>", "<sep>"))]
LONG, SHORT = "film the a was very good bad film the a", "good"


def backbone_of(tokenizer: PreTrainedTokenizerFast, **options: int) -> Backbone:
    return Backbone(tiny_llama(len(tokenizer)), tokenizer, precision="float32", **options)


def task_of(template: str, text: str = "good film", **more: object) -> Task:
    rows = to_dataset([Example(text, template.format(text=text), n) for n in (0, 1)])
    return replace(Task("t", rows, rows, rows, ("yes", "no"), wording=Wording(template)), **more)


@pytest.mark.parametrize(("front", "behind"), FRAMES)
@pytest.mark.parametrize("cut", ["start", "end"])
def test_a_text_is_cut_as_transformers_cuts_it(front: tuple[str, ...], behind: tuple[str, ...], cut: str) -> None:
    backbone = backbone_of(bpe_tokenizer(front, behind))
    oracle = bpe_tokenizer(front, behind)
    oracle.truncation_side = "left" if cut == "start" else "right"
    for length in range(len(front) + len(behind) + 1, 20):
        want = oracle([LONG, SHORT], truncation=True, max_length=length)["input_ids"]
        assert backbone.encode([LONG, SHORT], length, cut) == want
    least = backbone.encode([LONG], 1, cut)[0]  # a row never loses all of its text
    assert oracle.decode(least, skip_special_tokens=True).split() == [LONG.split()[-1 if cut == "start" else 0]]
    assert len(least) == len(front) + len(behind) + 1


@pytest.mark.parametrize("space_before_texts", [False, True])
@pytest.mark.parametrize(("front", "behind"), FRAMES)
def test_a_cue_is_read_as_part_of_the_text_and_never_cut(
    front: tuple[str, ...], behind: tuple[str, ...], space_before_texts: bool
) -> None:
    tokenizer = bpe_tokenizer(front, behind, space_before_texts=space_before_texts)
    backbone = backbone_of(tokenizer)
    assert backbone.encode([SHORT], 64, "start", " Label :") == tokenizer([f"{SHORT} Label :"])["input_ids"]
    cued = tokenizer("film the a Label :")["input_ids"]
    assert backbone.encode([LONG], len(cued), "end", " Label :") == [cued]


def test_every_row_of_a_task_starts_with_the_start_token() -> None:
    tokenizer = bpe_tokenizer(("<s>",))
    rows = to_dataset([Example(text, text, n % 2) for n, text in enumerate([LONG, SHORT])])
    encoded = EncodedTask.of(Task("t", rows, rows, rows, ("yes", "no")), backbone_of(tokenizer, max_length=4))
    assert {ids[0] for ids in encoded.test} == {row.ids[0] for row in encoded.train} == {tokenizer.bos_token_id}
    assert max(map(len, encoded.test)) == 4


def whole(encoded: EncodedTask) -> list[int]:
    """The first test row with its answer."""
    return [*encoded.test[0], *encoded.answers[0]]


@pytest.mark.parametrize("template", ["{text}\nLabel:", "{text}\nLabel: ", "{text}\nLabel:  "])
@pytest.mark.parametrize("space_before_texts", [False, True])
def test_one_space_stands_between_a_text_and_its_answer(template: str, space_before_texts: bool) -> None:
    tokenizer = bpe_tokenizer(("<s>",), space_before_texts=space_before_texts)
    encoded = EncodedTask.of(task_of(template), backbone_of(tokenizer))
    assert whole(encoded) == tokenizer("good film\nLabel: yes")["input_ids"] and encoded.join == "space"
    assert encoded.wording == Wording("{text}\nLabel:") and task_facts(encoded)["join"] == "space"


def test_an_empty_last_field_leaves_no_space_of_its_own() -> None:
    tokenizer = bpe_tokenizer()
    encoded = EncodedTask.of(task_of("Label: {text}", ""), backbone_of(tokenizer))
    assert whole(encoded) == tokenizer("Label: yes")["input_ids"]


@pytest.mark.parametrize("space_before_texts", [False, True])
def test_a_line_break_at_the_end_is_all_that_stands_between(space_before_texts: bool) -> None:
    tokenizer = bpe_tokenizer(space_before_texts=space_before_texts)
    encoded = EncodedTask.of(task_of("{text}\nLabel:\n"), backbone_of(tokenizer))
    assert whole(encoded) == tokenizer("good film\nLabel:\nyes")["input_ids"]
    assert encoded.join == "none" and encoded.wording == Wording("{text}\nLabel:\n")
    spaced = EncodedTask.of(task_of("{text}\nLabel:\n", join="space"), backbone_of(tokenizer))
    assert whole(spaced) == tokenizer("good film\nLabel:\n yes")["input_ids"]


@pytest.mark.parametrize("start", [(), ("<s>",)])
@pytest.mark.parametrize("ending", ["template", "cue"])
def test_a_boundary_that_is_read_to_the_letter(ending: str, start: tuple[str, ...]) -> None:
    tokenizer = bpe_tokenizer(start)
    backbone = backbone_of(tokenizer)
    task = task_of("{text} Label : ") if ending == "template" else task_of("{text}", cue=" Label : ")
    text, bare = tokenizer("good film Label : ")["input_ids"], tokenizer("yes", add_special_tokens=False)["input_ids"]
    assert whole(EncodedTask.of(replace(task, join="none"), backbone)) == [*text, *bare]
    apart = EncodedTask.of(replace(task, join="separate"), backbone)
    assert whole(apart) == [*text, *tokenizer("yes")["input_ids"]]
    assert apart.train[0].answer == tuple(bare), "the start token is read, not learned"


def test_an_answer_on_its_own_keeps_the_space_that_the_tokenizer_writes() -> None:
    tokenizer = bpe_tokenizer(("<s>",), ("</s>",), space_before_texts=True)
    encoded = EncodedTask.of(task_of("{text} Label : ", join="separate"), backbone_of(tokenizer), "full")
    text, answer = tokenizer("good film Label : ")["input_ids"], tokenizer("yes")["input_ids"]
    assert whole(encoded) == [*text, *answer]


def test_free_text_joins_as_choices_do() -> None:
    tokenizer = bpe_tokenizer(("<s>",))
    rows = to_dataset([Example("good", "good Label:\n", answer="film the a", references=("film the a",))])
    task = Task("t", rows, rows, rows, metric="exact-match", wording=Wording("{text} Label:\n"))
    row = EncodedTask.of(task, backbone_of(tokenizer)).train[0]
    assert [*row.ids, *row.answer[:-1]] == tokenizer("good Label:\nfilm the a")["input_ids"]


@pytest.mark.parametrize("template", ["{text}\nLabel: ", "{text}\nLabel:\n", "{text}\nLabel:"])
def test_prompt_files_that_do_not_say_are_read_as_before(template: str) -> None:
    tokenizer = bpe_tokenizer(("<s>",))
    encoded = EncodedTask.of(task_of(template, join=None), backbone_of(tokenizer))
    space_yes = tokenizer(" yes", add_special_tokens=False)["input_ids"]
    assert whole(encoded) == [*tokenizer(template.format(text="good film"))["input_ids"], *space_yes]
    cued = EncodedTask.of(task_of("{text}", cue=" Label : ", join=None), backbone_of(tokenizer))
    assert whole(cued) == tokenizer("good film Label : yes")["input_ids"]


def test_answers_of_an_encoder_decoder_stand_apart(t5: Backbone) -> None:
    rows = to_dataset([Example("w1", "w1 w2 ", n) for n in (0, 1)])
    for join in ("auto", "space", "none", "separate"):
        encoded = EncodedTask.of(Task("t", rows, rows, rows, ("yes", "no"), wording=Wording("{text} "), join=join), t5)
        assert encoded.join is None and encoded.answers == ((VOCABULARY.index("yes"),), (VOCABULARY.index("no"),))


@pytest.mark.parametrize("scoring", ["auto", "full", "generate"])
def test_answers_that_the_vocabulary_lacks_are_refused(backbone: Backbone, scoring: str) -> None:
    rows = to_dataset([Example("w1", "w1", n) for n in (0, 1)])
    for choices, message in (
        (("正面", "负面"), "answer '正面' has no tokens in"),
        (("no", "正面"), "answer '正面' has no tokens in"),
        (("正 面", "负"), "answer '正 面' has no tokens in"),
        (("no", "yes 面"), "'t': answer 'yes 面' has characters that this model's vocabulary lacks"),
    ):
        with pytest.raises(ValueError, match=message):
            EncodedTask.of(Task("t", rows, rows, rows, choices), backbone, scoring)


@pytest.mark.parametrize("answer", ["很好", "很 好"])
def test_free_text_of_unknown_characters_alone_is_refused(backbone: Backbone, answer: str) -> None:
    def task(text: str) -> Task:
        rows = to_dataset([Example("w1", "w1", answer=text, references=(text,))])
        return Task("t", rows, rows, rows, metric="exact-match")

    with pytest.raises(ValueError, match=f"answer '{answer}' has no tokens in"):
        EncodedTask.of(task(answer), backbone)
    assert EncodedTask.of(task(f"w1 {answer}"), backbone).train[0].answer[0] == VOCABULARY.index("w1")


def test_a_space_alone_is_no_token_of_an_answer() -> None:
    tokenizer = bpe_tokenizer(space_before_texts=True)  # it has no unknown token: what it lacks is dropped
    assert tokenizer.convert_ids_to_tokens(tokenizer("面")["input_ids"]) == ["▁"]
    for build in (tiny_t5, tiny_llama):
        backbone = Backbone(build(len(tokenizer)), tokenizer, precision="float32")
        with pytest.raises(ValueError, match="'面' has no tokens in"):
            backbone.encode_answers(["yes", "面"])


def test_texts_that_are_mostly_unknown_are_counted(backbone: Backbone) -> None:
    raws = ["w1 w2", "这部 电影", "w1 w2 w3 电影", "w1 电影电影", ""]
    rows = to_dataset([Example(raw, f"w4 w5 w6 w7 w8 w9 {raw} w9 w8", n % 2) for n, raw in enumerate(raws)])
    task = Task("t", rows, rows, rows, ("no", "yes"))
    assert EncodedTask.of(task, backbone).unknown == 2 * 2  # training and test rows, and the template is no excuse
    assert EncodedTask.of(replace(task, train=rows.select([0, 1])), backbone).unknown == 1 + 2


def test_a_vocabulary_of_bytes_lacks_nothing() -> None:
    tokenizer = bpe_tokenizer()
    tokenizer.unk_token = "</s>"  # as that of GPT-2 says
    rows = to_dataset([Example("这部电影", "这部电影", n) for n in (0, 1)])
    encoded = EncodedTask.of(Task("t", rows, rows, rows, ("正面", "负面")), backbone_of(tokenizer))
    assert encoded.unknown == 0 and encoded.answers[0] != encoded.answers[1]
