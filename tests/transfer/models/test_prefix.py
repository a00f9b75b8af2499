"""Prompts read once: the logits and gradients of every row read alone, for many families and kinds of prompts."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from families import load
from literal import literal_logits, positions_read
from torch import Tensor, nn

from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone
from prompttransfer.models.answering import Reader
from prompttransfer.prompts import FrozenPrompts, MultitaskPrompt, ParticlePrompts, PromptModule, SoftPrompt

ROWS = [[10, 11, 12, 13, 14, 9, 8, 20], [15, 16], [17], [18, 19, 20]]
LABELS = torch.tensor([4, 5, 6, 4])
LENGTH = 5
# The window of "mistral" is as long as the prompt and the longest text, padding included.
SHARING = ("llama", "gpt2", "mistral", "gemma2", "qwen2", "opt", "bloom")
# Attention that looks ahead, recurrent layers, distances that count padding, a window shorter than the test rows.
PLAIN = ("t5", "two-way", "jamba", "mpt", "gemma2-window")
# Gemma 2 caps its attention scores, which the fused attention cannot; Bloom has one attention.
PAIRS = [(name, "eager") for name in SHARING] + [(name, "sdpa") for name in SHARING if name not in ("gemma2", "bloom")]


def kinds() -> dict[str, tuple[PromptModule, Tensor]]:
    """Prompts and task ids: one prompt for all rows, and several for rows to choose from (one of them unused)."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(LENGTH, 16, generator=generator)
    three = start + torch.randn(3, LENGTH, 16, generator=generator)
    v = torch.randn(3, 1, 16, generator=generator)
    mixed = torch.tensor([2, 0, 2, 2])
    return {
        "soft": (SoftPrompt(start), torch.zeros(4, dtype=torch.int64)),
        "multitask": (MultitaskPrompt(start, 3, u=torch.ones(3, LENGTH, 1), v=v), mixed),
        "particles": (ParticlePrompts(three, start), mixed),
    }


def gradients(loss: Tensor, prompt: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(prompt.parameters())))


@pytest.mark.parametrize("kind", ["soft", "multitask", "particles"])
@pytest.mark.parametrize(("family", "attention"), PAIRS)
def test_loss_and_gradient_are_those_of_the_rows_read_alone(family: str, attention: str, kind: str) -> None:
    backbone = load(family, attention)
    assert backbone.reads_prompts_once
    backbone.packs_rows = False
    prompt, task_ids = kinds()[kind]
    batch = backbone.collate(ROWS) | {"labels": LABELS[:, None], "task_ids": task_ids}
    loss = task_loss(backbone, prompt, batch)
    expected = F.cross_entropy(literal_logits(backbone, prompt, ROWS, task_ids), LABELS)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for got, want in zip(gradients(loss, prompt), gradients(expected, prompt), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    prompts = len(task_ids.unique())
    read = positions_read(backbone, lambda: backbone(prompt, batch, task_ids=task_ids))
    assert read == prompts * LENGTH + len(ROWS) * max(map(len, ROWS))


@pytest.mark.parametrize("family", PLAIN)
def test_other_families_read_the_prompt_with_every_row(family: str) -> None:
    backbone = load(family)
    prompt, task_ids = kinds()["multitask"]
    assert not backbone.reads_prompts_once
    assert backbone.read(prompt, task_ids) is None
    got = backbone(prompt, backbone.collate(ROWS), task_ids=task_ids).logits
    torch.testing.assert_close(got, literal_logits(backbone, prompt, ROWS, task_ids), rtol=1e-4, atol=1e-5)


def test_a_prefix_serves_many_batches(llama: Backbone) -> None:
    prompt, task_ids = kinds()["soft"]
    prefix = llama.read(prompt)
    expected = literal_logits(llama, prompt, ROWS, task_ids)
    for chosen in ([0, 1], [2], [3, 1, 0]):
        got = llama(prompt, llama.collate([ROWS[row] for row in chosen]), prefix=prefix).logits
        torch.testing.assert_close(got, expected[chosen], rtol=1e-5, atol=1e-5)


def test_prompts_as_many_as_rows_are_not_read_apart(llama: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(llama.__dict__, "packs_rows", False)
    prompt, _ = kinds()["particles"]
    assert llama.reads_prompts_once
    batch = llama.collate(ROWS[:3])
    read = positions_read(llama, lambda: llama(prompt, batch, task_ids=torch.arange(3)))
    assert read == 3 * (LENGTH + max(map(len, ROWS[:3])))


@pytest.mark.parametrize(("batch_size", "read"), [(1, False), (2, False), (3, True), (4, True)])
def test_on_a_gpu_scoring_reads_the_prompt_once_where_a_batch_saves_enough(
    llama: Backbone, monkeypatch: pytest.MonkeyPatch, batch_size: int, read: bool
) -> None:
    reader = Reader(llama, torch.zeros(LENGTH, llama.hidden_size), batch_size)
    assert reader._prefix() is not None  # on a CPU always
    monkeypatch.setattr(Backbone, "device", torch.device("cuda"))
    monkeypatch.setattr(Backbone, "computing", nullcontext)
    monkeypatch.setattr("prompttransfer.models.backbone._PRODUCTS_PER_LAYER_PASS", 2.5 * LENGTH * llama._layer_weights)
    assert (reader._prefix() is not None) == read


def test_a_prompt_that_depends_on_the_row_is_read_with_it(llama: Backbone) -> None:
    class Shifted(FrozenPrompts):
        per_instance = True

        def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
            return super().prepend(input_embeds, task_ids) + input_embeds.sum(dim=1, keepdim=True)

    assert llama.read(Shifted(torch.zeros(1, LENGTH, 16))) is None


@pytest.mark.parametrize("which", ["last", "all"])
def test_hidden_states_of_the_text_do_not_depend_on_the_path(llama: Backbone, which: str) -> None:
    prompt, task_ids = kinds()["multitask"]
    batch = llama.collate(ROWS)
    ours = llama(prompt, batch, task_ids=task_ids, hidden=which, hidden_positions="text").hidden
    everything = llama(prompt, batch, task_ids=task_ids, hidden=which, hidden_positions="all").hidden
    assert len(ours) == len(everything) == (2 if which == "all" else 1)
    for (state, mask), (whole, whole_mask) in zip(ours, everything, strict=True):
        assert whole.shape == (4, LENGTH + 8, 16) and torch.equal(mask, batch["attention_mask"])
        for row, text in enumerate(ROWS):
            read = whole[row][whole_mask[row].bool()]
            assert len(read) == LENGTH + len(text)
            torch.testing.assert_close(state[row][mask[row].bool()], read[LENGTH:], rtol=1e-4, atol=1e-5)
