"""Scoring a finished prompt: the answers of every row read alone, with the prompt read once."""

from __future__ import annotations

import pytest
import torch
from literal import literal_logits, positions_read
from tiny import VOCABULARY
from torch import Tensor

from prompttransfer.evaluation import evaluate, predict
from prompttransfer.models import Backbone
from prompttransfer.prompts import FrozenPrompts, PromptModule, SoftPrompt, initial_prompt

ROWS = [[8 + (index * 7 + place * 3) % 40 for place in range(1 + index % 6)] for index in range(23)]
ANSWERS = tuple(range(0, len(VOCABULARY), 2))


def expected(backbone: Backbone, prompt: PromptModule | None) -> list[int]:
    with torch.no_grad():
        return literal_logits(backbone, prompt, ROWS)[:, list(ANSWERS)].argmax(dim=1).tolist()


@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_answers_are_those_of_every_row_alone(backbone: Backbone, batch_size: int) -> None:
    start = initial_prompt(backbone, 5, seed=1)
    want = expected(backbone, SoftPrompt(start))
    assert predict(backbone, start, ROWS, ANSWERS, batch_size=batch_size) == want
    assert len(set(want)) > 2, "a test in which one answer always wins shows nothing"


def test_zero_shot_reads_the_text_only(backbone: Backbone) -> None:
    assert predict(backbone, None, ROWS, ANSWERS, batch_size=8) == expected(backbone, None)


def test_the_prompt_is_read_once_for_all_batches(llama: Backbone) -> None:
    assert llama.reads_prompts_once
    start = initial_prompt(llama, 5)
    lengths = sorted(map(len, ROWS))
    padded = sum(len(part) * part[-1] for part in (lengths[first : first + 8] for first in range(0, len(lengths), 8)))
    assert positions_read(llama, lambda: predict(llama, start, ROWS, ANSWERS, batch_size=8)) == 5 + padded


def test_a_prompt_that_depends_on_the_row_is_scored_as_a_module(backbone: Backbone) -> None:
    class Shifted(FrozenPrompts):
        per_instance = True

        def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
            text = input_embeds if mask is None else input_embeds * mask[..., None]
            shifted = self.prompts[0] + text.sum(dim=1, keepdim=True)
            return torch.cat([shifted, input_embeds], dim=1)

    prompt = Shifted(initial_prompt(backbone, 5)[None])
    assert predict(backbone, prompt, ROWS, ANSWERS, batch_size=8) == expected(backbone, prompt)


def test_a_prompt_of_another_width_is_refused(llama: Backbone) -> None:
    with pytest.raises(ValueError, match=r"width 12, the model wants 16"):
        evaluate(llama, torch.zeros(5, 12), ROWS, [0] * len(ROWS), ANSWERS, "accuracy")
