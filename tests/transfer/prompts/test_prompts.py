"""Kinds of prompts: counts, starts, composition, the rules that tie task vectors to one start."""

from __future__ import annotations

import pytest
import torch
from tiny import VOCABULARY, tiny_llama, tiny_tokenizer

from prompttransfer.models import Backbone
from prompttransfer.prompts import (
    GroupedPrompt,
    MultitaskPrompt,
    SoftPrompt,
    average_factors,
    init_hash,
    initial_prompt,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("kind", "width", "count"),
    [
        ("PT", 512, 51_200),
        ("PT", 768, 76_800),
        ("PT", 1024, 102_400),
        ("MPT", 512, 51_812),
        ("MPT", 768, 77_668),
        ("MPT", 1024, 103_524),
        ("DTVG", 768, 77_500),
    ],
)
def test_parameter_counts_of_the_papers(kind: str, width: int, count: int) -> None:
    start = torch.zeros(100, width)
    prompt = {
        "PT": lambda: SoftPrompt(start),
        "MPT": lambda: MultitaskPrompt(start),
        "DTVG": lambda: GroupedPrompt(start, torch.zeros(6, 100, width), start),
    }[kind]()
    assert prompt.trainable_parameters() == count


@pytest.mark.parametrize("rank", [1, 3])
def test_every_task_of_mpt_starts_at_the_shared_prompt(rank: int) -> None:
    shared = random(5, 8)
    prompt = MultitaskPrompt(shared, 3, rank)
    for task in range(3):
        torch.testing.assert_close(prompt.composed(task), shared, rtol=0.1 if rank > 1 else 1e-6, atol=0)


def test_mpt_rows_get_the_prompt_of_their_task() -> None:
    prompt = MultitaskPrompt(random(4, 6), 2, 2, u=random(2, 4, 2, seed=1), v=random(2, 2, 6, seed=2))
    embeds = random(3, 5, 6, seed=3)
    got = prompt.prepend(embeds, torch.tensor([1, 0, 1]))
    for row, task in enumerate([1, 0, 1]):
        expected = prompt.shared * (prompt.u[task] @ prompt.v[task])
        torch.testing.assert_close(got[row], torch.cat([expected, embeds[row]]))
    with pytest.raises(ValueError, match="task_ids"):
        prompt.prepend(embeds)


def test_average_factors_fit_the_mean_matrix_where_factor_means_cancel() -> None:
    u, v = random(1, 4, 1), random(1, 1, 6, seed=1)
    both_u, both_v = torch.cat([u, -u]), torch.cat([v, -v])  # one task, written twice with opposite signs
    assert both_u.mean(dim=0).abs().max() == 0
    new_u, new_v = average_factors(both_u, both_v)
    torch.testing.assert_close(new_u @ new_v, u @ v)
    assert new_u.sum() >= 0


def test_average_factors_are_the_best_low_rank_fit() -> None:
    u, v = random(5, 4, 2), random(5, 2, 6, seed=1)
    mean = (u @ v).mean(dim=0)
    new_u, new_v = average_factors(u, v)
    values = torch.linalg.svdvals(mean)
    error = torch.linalg.matrix_norm((new_u @ new_v)[0] - mean)
    torch.testing.assert_close(error, values[2:].norm())  # Eckart-Young
    ones_u, ones_v = average_factors(torch.ones(3, 4, 1), torch.ones(3, 1, 6))
    torch.testing.assert_close(ones_u, torch.ones(1, 4, 1))
    torch.testing.assert_close(ones_v, torch.ones(1, 1, 6))


def test_two_speeds_and_three_speeds() -> None:
    mpt = MultitaskPrompt(random(4, 6))
    assert [group["lr"] for group in mpt.parameter_groups(0.3, 0.4)] == [0.3, 0.4]
    dtvg = GroupedPrompt(random(4, 6), random(2, 4, 6), random(4, 6))
    assert [group["lr"] for group in dtvg.parameter_groups(0.3, None, 0.0)] == [0.3, 0.3, 0.0]


def drawn(seed: int) -> list[int]:
    """The permutation of all ids without <pad>, <unk> and </s>."""
    order = torch.randperm(len(VOCABULARY), generator=torch.Generator().manual_seed(seed)).tolist()
    return [token for token in order if token > 2]


def rows(backbone: Backbone, ids: list[int]) -> torch.Tensor:
    return backbone.embedding.weight[ids].detach()


def test_initial_prompt_takes_seeded_vocabulary_rows(llama: Backbone) -> None:
    got = initial_prompt(llama, 5, seed=7)
    assert torch.equal(got, rows(llama, drawn(7)[:5]))
    assert init_hash(got) != init_hash(initial_prompt(llama, 5, seed=8))
    assert initial_prompt(llama, 5, "uniform").abs().max() <= 0.5
    with pytest.raises(ValueError, match="got 'zeros', want vocabulary, text, labels or uniform"):
        initial_prompt(llama, 5, "zeros")


def test_initial_prompt_takes_no_token_that_stands_for_no_text() -> None:
    # A model with more rows than the tokenizer has tokens, one of them added.
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<unused>"])
    model = tiny_llama()
    model.resize_token_embeddings(len(VOCABULARY) + 16)
    backbone = Backbone(model, tokenizer, precision="float32")
    with torch.no_grad():
        backbone.embedding.weight[20] = 0
    got = initial_prompt(backbone, len(VOCABULARY) - 4)
    expected = rows(backbone, [token for token in range(3, len(VOCABULARY)) if token != 20])
    assert torch.equal(got.sort(dim=0).values, expected.sort(dim=0).values)
    with pytest.raises(ValueError, match="length 45 exceeds the 44 vocabulary rows"):
        initial_prompt(backbone, 45)


def test_initial_prompt_of_a_text_is_cut_or_repeated(llama: Backbone) -> None:
    w1, w2 = map(VOCABULARY.index, ("w1", "w2"))
    assert torch.equal(initial_prompt(llama, 5, "text", text="w1 w2"), rows(llama, [w1, w2, w1, w2, w1]))
    assert torch.equal(initial_prompt(llama, 2, "text", text="w1 w2 w3"), rows(llama, [w1, w2]))
    with pytest.raises(ValueError, match="init text ' ' has no tokens"):
        initial_prompt(llama, 5, "text", text=" ")


def test_initial_prompt_of_labels_holds_their_means_and_drawn_tokens(llama: Backbone) -> None:
    no, yes, w1, w2 = map(VOCABULARY.index, ("no", "yes", "w1", "w2"))
    labels = ["no", "yes w1 w2", "no"]
    got = initial_prompt(llama, 5, "labels", seed=7, labels=labels)
    means = torch.stack([rows(llama, [no])[0], rows(llama, [yes, w1, w2]).mean(dim=0)])
    torch.testing.assert_close(got, torch.cat([means, rows(llama, drawn(7)[:3])]))
    torch.testing.assert_close(initial_prompt(llama, 1, "labels", labels=labels), means[:1])
    with pytest.raises(ValueError, match="needs a task with choices"):
        initial_prompt(llama, 5, "labels")


def test_prompt_types_follow_the_embeddings_and_parameters_stay_float32() -> None:
    embeds = random(2, 3, 6).bfloat16()
    for prompt in (SoftPrompt(random(4, 6).bfloat16()), MultitaskPrompt(random(4, 6))):
        assert prompt.prepend(embeds).dtype == torch.bfloat16
        assert all(parameter.dtype == torch.float32 for parameter in prompt.parameters())
