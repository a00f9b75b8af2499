"""Scoring a finished prompt: the same answers as for single rows, regardless of sharing and batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from literal import literal_answer_logits, literal_logits, literal_text, positions_read
from scipy.stats import pearsonr, spearmanr
from tiny import VOCABULARY, tiny_t5, tiny_tokenizer
from tokenizers.normalizers import Lowercase
from torch import Tensor

from prompttransfer.models import Backbone, Batch
from prompttransfer.models.answering import Reader
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.scoring import evaluate, number_of, predict
from prompttransfer.prompts import FrozenPrompts, PromptModule, SoftPrompt, initial_prompt
from prompttransfer.tasks.task import Example, Task, to_dataset

ROWS = tuple(tuple(8 + (index * 7 + place * 3) % 40 for place in range(1 + index % 6)) for index in range(23))
ANSWERS = tuple((token,) for token in range(0, len(VOCABULARY), 2))
WHOLE = ((4, 2), (4, 9, 2), (4, 9, 30, 2), (5, 31, 2), (12, 2), (40, 41, 2), (22, 23, 24, 25, 2))
END = VOCABULARY.index("</s>")


def asked(answers=ANSWERS, scoring: str = "first-token", **more) -> EncodedTask:
    labels = tuple(index % len(answers) for index in range(len(ROWS))) if answers else ()
    return EncodedTask("t", ("accuracy",), (), ROWS, scoring, labels, answers, **more)


def expected(backbone: Backbone, prompt: PromptModule | None) -> list[int]:
    with torch.no_grad():
        columns = [token for (token,) in ANSWERS]
        return literal_logits(backbone, prompt, ROWS)[:, columns].argmax(dim=1).tolist()


def expected_whole(backbone: Backbone, prompt: PromptModule | None) -> Tensor:
    """Mean log-probabilities (rows, answers), one forward for each."""
    scores = torch.empty(len(ROWS), len(WHOLE))
    with torch.no_grad():
        for i, row in enumerate(ROWS):
            for j, answer in enumerate(WHOLE):
                logs = literal_answer_logits(backbone, prompt, row, answer).double().log_softmax(dim=-1)
                scores[i, j] = sum(logs[place, token] for place, token in enumerate(answer)) / len(answer)
    return scores


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_answers_are_those_of_every_row_alone(backbone: Backbone, batch_size: int) -> None:
    start = initial_prompt(backbone, 5, seed=1)
    want = expected(backbone, SoftPrompt(start))
    assert predict(backbone, start, asked(), batch_size=batch_size) == want
    assert len(set(want)) > 2, "a test in which one answer always wins shows nothing"


def test_zero_shot_reads_the_text_only(backbone: Backbone) -> None:
    assert predict(backbone, None, asked(), batch_size=8) == expected(backbone, None)


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("zero_shot", [False, True])
def test_whole_answers_are_scored_by_the_mean_of_all_their_tokens(
    backbone: Backbone, batch_size: int, zero_shot: bool
) -> None:
    from prompttransfer.models.answering import Reader

    start = None if zero_shot else initial_prompt(backbone, 5, seed=1)
    want = expected_whole(backbone, None if zero_shot else SoftPrompt(start))
    got = Reader(backbone, start, batch_size).answer_scores(ROWS, WHOLE)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert predict(backbone, start, asked(WHOLE, "full"), batch_size=batch_size) == want.argmax(dim=1).tolist()


def test_many_answers_are_scored_a_few_at_a_time(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    from prompttransfer.models import answering

    start = initial_prompt(backbone, 5, seed=1)
    whole = answering.Reader(backbone, start, 8).answer_scores(ROWS, WHOLE)
    monkeypatch.setattr(answering, "_POSITIONS", 90)
    torch.testing.assert_close(answering.Reader(backbone, start, 8).answer_scores(ROWS, WHOLE), whole)


def test_a_model_without_a_usable_cache_scores_whole_answers_too(llama: Backbone) -> None:
    start = initial_prompt(llama, 5, seed=1)
    want = expected_whole(llama, SoftPrompt(start)).argmax(dim=1).tolist()
    llama.__dict__["reads_prompts_once"] = False
    try:
        assert predict(llama, start, asked(WHOLE, "full"), batch_size=8) == want
    finally:
        del llama.__dict__["reads_prompts_once"]


@pytest.mark.parametrize("zero_shot", [False, True])
def test_free_text_is_the_likeliest_token_again_and_again(backbone: Backbone, zero_shot: bool) -> None:
    start = None if zero_shot else initial_prompt(backbone, 5, seed=3)
    task = asked((), "generate", max_answer=4)
    got = predict(backbone, start, task, batch_size=8)
    prompt = None if zero_shot else SoftPrompt(start)
    # The last token may be the end: one more than max_answer is written.
    assert got == [literal_text(backbone, prompt, row, 5) for row in ROWS]
    assert len(set(got)) > 1


def test_prompts_of_a_decoder_are_read_before_it_writes() -> None:
    both = Backbone(tiny_t5(), tiny_tokenizer(), max_length=16, precision="float32", placement="encoder-decoder")
    prompt = initial_prompt(both, 4, seed=2)

    def literal(row: tuple[int, ...]) -> str:
        answer = [0]
        while len(answer) < 6:
            with torch.no_grad():
                logits = both.model(
                    inputs_embeds=torch.cat([prompt[:2], both.embedding(torch.tensor(row))])[None],
                    decoder_inputs_embeds=torch.cat([prompt[2:], both.embedding(torch.tensor(answer))])[None],
                ).logits
            token = int(logits[0, -1].argmax())
            if token == END:
                break
            answer.append(token)
        return both.tokenizer.decode(answer[1:], skip_special_tokens=True).strip()

    got = predict(both, prompt, asked((), "generate", max_answer=4), batch_size=8)
    assert got == [literal(row) for row in ROWS]


def test_a_choice_that_is_written_counts_and_anything_else_is_none(llama: Backbone) -> None:
    texts = [literal_text(llama, None, row, 3) for row in ROWS]
    choices = (texts[0], "yes", next(text for text in texts if text != texts[0]))
    task = asked(((40, 2), (5, 2), (41, 2)), "generate", choices=choices)
    got = predict(llama, None, replace(task, answers=((40, 2), (5, 2), (41, 2))), batch_size=8)
    assert got == [choices.index(text) if text in choices else -1 for text in texts]
    assert {0, 2, -1} >= set(got) and 2 in got


def test_a_choice_is_recognised_as_the_tokenizer_writes_it(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone.tokenizer.backend_tokenizer.normalizer = Lowercase()
    rows = to_dataset([Example("w1", "w1", label) for label in (0, 1, 0)])
    encoded = EncodedTask.of(Task("t", rows, rows, rows, ("No", "YES No")), backbone, "generate")
    monkeypatch.setattr("prompttransfer.models.scoring.written_answers", lambda *_: ["no", "yes no", "w9"])
    assert predict(backbone, None, encoded) == [0, 1, -1]


@pytest.mark.parametrize(
    ("text", "number"),
    [("2.8", 2.8), ("3", 3.0), ("2.55", 2.55), ("7", 7.0), ("-2", -2.0), ("", -1.0), ("yes", -1.0), ("nan", -1.0)],
)
def test_a_number_that_is_written_is_taken_as_it_is(text: str, number: float) -> None:
    assert number_of(text) == number


def test_a_scale_is_scored_by_the_numbers_that_are_written(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    written = ["1.0", "2.55", "none", "9"] + ["3"] * (len(ROWS) - 4)
    labels = tuple(index % 3 for index in range(len(ROWS)))
    asked_for = asked(((1, 2), (5, 2), (3, 2)), "generate", choices=("0.0", "2.5", "5.0"))
    task = replace(
        asked_for,
        answers=((1, 2), (5, 2), (3, 2)),
        scale=True,
        labels=labels,
        metrics=("pearson", "spearman"),
    )
    monkeypatch.setattr(Reader, "write", lambda self, rows, longest: written)
    evaluation = evaluate(llama, None, task)
    answers = [1.0, 2.55, -1.0, 9.0] + [3.0] * (len(ROWS) - 4)
    numbers = [(0.0, 2.5, 5.0)[label] for label in labels]
    assert evaluation.predictions == answers
    assert evaluation.score == pytest.approx(100 * pearsonr(numbers, answers).statistic)
    assert evaluation.more == {"spearman": pytest.approx(100 * spearmanr(numbers, answers).statistic)}
    chosen = evaluate(llama, None, replace(task, scoring="full"))
    answers = [(0.0, 2.5, 5.0)[place] for place in chosen.predictions]
    expected = 100 * pearsonr(numbers, answers).statistic if len(set(answers)) > 1 else 0.0
    assert chosen.score == pytest.approx(expected)


def test_free_text_is_scored_against_its_references(llama: Backbone) -> None:
    texts = [literal_text(llama, None, row, 5) for row in ROWS]
    right = tuple((text, "other") if index % 2 else ("nothing of that",) for index, text in enumerate(texts))
    task = replace(asked((), "generate", max_answer=4), metrics=("exact-match", "squad-f1"), references=right)
    evaluation = evaluate(llama, None, task, batch_size=8)
    assert evaluation.score == pytest.approx(100 * 11 / 23) and set(evaluation.more) == {"squad-f1"}
    assert evaluation.predictions == texts and evaluation.rows == 23


def test_the_prompt_is_read_once_for_all_batches(llama: Backbone) -> None:
    assert llama.reads_prompts_once
    start = initial_prompt(llama, 5)
    lengths = sorted(map(len, ROWS))
    padded = sum(len(part) * part[-1] for part in (lengths[first : first + 8] for first in range(0, len(lengths), 8)))
    assert positions_read(llama, lambda: predict(llama, start, asked(), batch_size=8)) == 5 + padded


def test_prompt_and_text_are_read_once_for_what_is_written(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    assert llama.reads_prompts_once
    start = initial_prompt(llama, 5, seed=3)
    lengths = sorted(map(len, ROWS))
    parts = [lengths[first : first + 8] for first in range(0, len(lengths), 8)]
    batches = []

    def kept(self: Reader, batch: Batch, *rest: Any) -> Tensor:
        batches.append(written_by(self, batch, *rest))
        return batches[-1]

    written_by = Reader._written
    monkeypatch.setattr(Reader, "_written", kept)
    read = positions_read(llama, lambda: predict(llama, start, asked((), "generate", max_answer=4), batch_size=8))
    # The last token that is written is not read.
    assert read == 5 + sum(len(part) * part[-1] for part in parts) + sum(w[:, 1:].numel() for w in batches)
    assert len(batches) == len(parts) and max(w.shape[1] for w in batches) > 1


def test_a_text_is_read_once_for_all_answers(llama: Backbone) -> None:
    assert llama.reads_prompts_once
    start = initial_prompt(llama, 5)
    lengths = sorted(map(len, ROWS))
    padded = sum(len(part) * part[-1] for part in (lengths[first : first + 8] for first in range(0, len(lengths), 8)))
    answers = len(ROWS) * len(WHOLE) * 4  # all but the last token of the longest
    read = positions_read(llama, lambda: predict(llama, start, asked(WHOLE, "full"), batch_size=8))
    assert read == 5 + padded + answers


@pytest.mark.parametrize(("answers", "scoring"), [(ANSWERS, "first-token"), (WHOLE, "full")])
def test_a_prompt_that_depends_on_the_row_is_scored_as_a_module(backbone: Backbone, answers, scoring: str) -> None:
    class Shifted(FrozenPrompts):
        per_instance = True

        def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
            text = input_embeds if mask is None else input_embeds * mask[..., None]
            shifted = self.prompts[0] + text.sum(dim=1, keepdim=True)
            return torch.cat([shifted, input_embeds], dim=1)

    prompt = Shifted(initial_prompt(backbone, 5)[None])
    if scoring == "first-token":
        assert predict(backbone, prompt, asked(), batch_size=8) == expected(backbone, prompt)
        return
    with torch.no_grad():
        want = []
        for row in ROWS:
            read = torch.cat([prompt.prepend(backbone.embedding(torch.tensor([row])))[0, :5]])
            scores = [
                literal_answer_logits(backbone, SoftPrompt(read), row, a).log_softmax(-1)[range(len(a)), list(a)].mean()
                for a in WHOLE
            ]
            want.append(int(torch.stack(scores).argmax()))
    assert predict(backbone, prompt, asked(WHOLE, "full"), batch_size=8) == want


def test_a_prompt_of_another_width_is_refused(llama: Backbone) -> None:
    with pytest.raises(ValueError, match=r"width 12, the model wants 16"):
        evaluate(llama, torch.zeros(5, 12), asked())
