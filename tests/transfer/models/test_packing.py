"""Packed rows: the logits and gradients of every row read alone, for many families and kinds of prompts."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from families import load
from literal import literal_answer_logits, positions_read
from test_prefix import LENGTH, ROWS, SHARING, kinds

from prompttransfer.models import Backbone
from prompttransfer.models.packing import PackedRows

ANSWERS = [[4, 2], [4, 9, 30, 2], [5, 31, 2], [12]]
# Bloom knows no positions, but distances in the padded batch.
PACKING = [name for name in SHARING if name != "bloom"]
PAIRS = [(name, "eager") for name in PACKING] + [(name, "sdpa") for name in PACKING if name != "gemma2"]
PLAIN = ("bloom", "t5", "two-way", "jamba", "mpt")


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pack where it saves nothing, too: the rows here are short."""
    monkeypatch.setattr(Backbone, "_unpacked_products", lambda *arguments: float("inf"))


@pytest.mark.parametrize("count", [None, 1, 2, 4])
@pytest.mark.parametrize("kind", ["soft", "multitask", "particles"])
@pytest.mark.parametrize(("family", "attention"), PAIRS)
def test_logits_and_gradient_are_those_of_the_rows_read_alone(
    family: str, attention: str, kind: str, count: int | None, always: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load(family, attention)
    assert backbone.packs_rows
    if count:
        groups = [list(range(len(ROWS)))[place::count] for place in range(count)]
        monkeypatch.setattr(PackedRows, "best", lambda *arguments: (groups, 0.0))
    prompt, task_ids = kinds()[kind]
    rows = [
        literal_answer_logits(backbone, prompt, row, answer, int(task))
        for row, answer, task in zip(ROWS, ANSWERS, task_ids, strict=True)
    ]
    weights = torch.randn(sum(map(len, ANSWERS)), rows[0].shape[1], generator=torch.Generator().manual_seed(3))
    whole = backbone(prompt, backbone.collate(ROWS, ANSWERS), task_ids=task_ids).logits
    firsts = backbone(prompt, backbone.collate(ROWS), task_ids=task_ids).logits
    for got, want in ((whole, torch.cat(rows)), (firsts, torch.stack([row[0] for row in rows]))):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
        parameters = list(prompt.parameters())
        losses = [(logits * weights[: len(logits)]).sum() for logits in (got, want)]
        ours, literal = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in losses)
        for left, right in zip(ours, literal, strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["soft", "multitask", "particles"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_gives_the_same_logits(family: str, kind: str, always: None) -> None:
    """Without a gradient, which it does not have on a CPU, and not compiled."""
    eager, (prompt, task_ids) = load(family), kinds()[kind]
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        want = [
            literal_answer_logits(eager, prompt, row, answer, int(task))
            for row, answer, task in zip(ROWS, ANSWERS, task_ids, strict=True)
        ]
        flex = load(family, "flex_attention")
        assert flex.packs_rows
        got = flex(prompt, flex.collate(ROWS, ANSWERS), task_ids=task_ids).logits
    torch.testing.assert_close(got, torch.cat(want), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", PLAIN)
def test_other_families_are_not_packed(family: str) -> None:
    assert not load(family).packs_rows


def test_windows_shorter_than_the_rows_are_not_packed(always: None) -> None:
    backbone, (prompt, task_ids) = load("mistral-window"), kinds()["soft"]
    assert backbone.packs_rows
    read = positions_read(backbone, lambda: backbone(prompt, backbone.collate(ROWS), task_ids=task_ids))
    assert read >= len(ROWS) * max(map(len, ROWS))


def test_a_pack_holds_every_token_once(llama: Backbone, always: None) -> None:
    assert llama.packs_rows
    prompt, task_ids = kinds()["soft"]
    read = positions_read(llama, lambda: llama(prompt, llama.collate(ROWS), task_ids=task_ids))
    assert read == LENGTH + sum(map(len, ROWS))


def test_a_sharded_model_is_not_packed(always: None) -> None:
    """Its processes have other rows each, and must run the same forwards."""
    backbone, (prompt, task_ids) = load("llama"), kinds()["soft"]
    assert backbone.packs_rows and backbone.reads_prompts_once
    backbone.sharded = True
    read = positions_read(backbone, lambda: backbone(prompt, backbone.collate(ROWS), task_ids=task_ids))
    assert read == len(ROWS) * (LENGTH + max(map(len, ROWS)))


def test_rows_of_one_length_are_not_packed(llama: Backbone) -> None:
    """With a prompt each there is nothing to save."""
    assert llama.packs_rows and llama.reads_prompts_once
    prompt, _ = kinds()["particles"]
    rows = [[10, 11, 12], [13, 14, 15], [16, 17, 18]]
    read = positions_read(llama, lambda: llama(prompt, llama.collate(rows), task_ids=torch.arange(3)))
    assert read == 3 * (LENGTH + 3)


@pytest.mark.parametrize("products", [1, 10**4])
@pytest.mark.parametrize("prompts", [[0] * 12, [0, 1, 2] * 4, list(range(12))])
def test_every_row_is_in_one_pack(prompts: list[int], products: int) -> None:
    lengths = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
    rows = PackedRows([0] * 12, lengths, [1] * 12, prompts, prompt_length=4)
    groups, cost = rows.best(products, width=16)
    assert sorted(chain.from_iterable(groups)) == list(range(12)) and all(groups)
    sizes = [sum(lengths[row] for row in group) + 4 * len({prompts[row] for row in group}) for group in groups]
    tokens, pairs = len(groups) * max(sizes), len(groups) * max(sizes) ** 2
    assert cost == tokens * products + 8 * 16 * pairs
    everything = sum(lengths) + 4 * len(set(prompts))
    assert cost <= everything * products + 8 * 16 * everything**2, "one pack of all"
