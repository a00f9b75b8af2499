"""Backbone: placement of the prompt, masks, positions, answers."""

from __future__ import annotations

import pytest
import torch
from tiny import VOCABULARY, tiny_llama, tiny_t5, tiny_tokenizer

from prompttransfer.models import Backbone
from prompttransfer.prompts import SoftPrompt, initial_prompt

ROWS = [[10, 11, 12, 13, 14], [15, 16], [17]]


def start(backbone: Backbone, length: int = 3) -> torch.Tensor:
    return initial_prompt(backbone, length, seed=1)


def test_causal_logits_are_those_of_the_row_alone_without_padding(llama: Backbone) -> None:
    prompt = start(llama)
    batch = llama.collate(ROWS)
    assert batch["attention_mask"].tolist()[2] == [0, 0, 0, 0, 1]
    got = llama(SoftPrompt(prompt), batch).logits
    for row, logits in zip(ROWS, got, strict=True):
        embeds = torch.cat([prompt, llama.embedding(torch.tensor(row))])[None]
        expected = llama.model(inputs_embeds=embeds).logits[0, -1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_seq2seq_prompt_stands_before_the_encoder_only(t5: Backbone) -> None:
    prompt = start(t5)
    batch = t5.collate(ROWS)
    assert batch["attention_mask"].tolist()[2] == [1, 0, 0, 0, 0]
    got = t5(SoftPrompt(prompt), batch).logits
    for row, logits in zip(ROWS, got, strict=True):
        embeds = torch.cat([prompt, t5.embedding(torch.tensor(row))])[None]
        expected = t5.model(inputs_embeds=embeds, decoder_input_ids=torch.tensor([[0]])).logits
        assert expected.shape[1] == 1
        torch.testing.assert_close(logits, expected[0, 0], rtol=1e-4, atol=1e-5)


def test_a_vocabulary_prompt_equals_the_same_tokens_in_the_text(backbone: Backbone) -> None:
    ids = [20, 21]
    prompt = SoftPrompt(backbone.embedding.weight[ids].detach())
    with_prompt = backbone(prompt, backbone.collate(ROWS)).logits
    as_text = backbone(None, backbone.collate([ids + row for row in ROWS])).logits
    torch.testing.assert_close(with_prompt, as_text, rtol=1e-4, atol=1e-5)


def test_only_the_prompt_gets_gradients_and_the_model_stays_in_evaluation_mode(backbone: Backbone) -> None:
    prompt = SoftPrompt(start(backbone))
    backbone.train()
    assert not any(module.training for module in backbone.modules())
    backbone(prompt, backbone.collate(ROWS)).logits.sum().backward()
    assert prompt.prompt.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_hidden_states_cover_encoder_and_decoder_and_mask_the_prompt(llama: Backbone, t5: Backbone) -> None:
    batch = llama.collate(ROWS)
    ((state, mask),) = llama(SoftPrompt(start(llama)), batch, hidden="last", hidden_positions="text").hidden
    assert state.shape == (3, 5, 16)
    assert mask.sum(dim=1).tolist() == [5, 2, 1]
    assert len(llama(SoftPrompt(start(llama)), batch, hidden="all").hidden) == 2
    hidden = t5(SoftPrompt(start(t5)), t5.collate(ROWS), hidden="last").hidden
    assert [tuple(state.shape) for state, _ in hidden] == [(3, 8, 16), (3, 1, 16)]
    assert hidden[0][1].sum(dim=1).tolist() == [8, 5, 4]


def test_answer_tokens(backbone: Backbone) -> None:
    assert backbone.answer_tokens(["no", " yes"]) == [VOCABULARY.index("no"), VOCABULARY.index("yes")]


def test_answers_with_one_first_token_are_refused_by_name(backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"'no w1' and 'no w2' start with the same token 'no'"):
        backbone.answer_tokens(["no w1", "no w2"])


def test_text_keeps_its_end(llama: Backbone) -> None:
    (row,) = llama.encode([" ".join(["w1"] * 30 + ["w2"])])
    assert len(row) == 16
    assert row[-1] == VOCABULARY.index("w2")


def test_fingerprint_follows_the_weights_and_the_kind() -> None:
    first = Backbone(tiny_llama(), tiny_tokenizer()).fingerprint
    assert Backbone(tiny_llama(), tiny_tokenizer()).fingerprint == first
    changed = tiny_llama()
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-3
    assert Backbone(changed, tiny_tokenizer()).fingerprint != first
    assert Backbone(tiny_t5(), tiny_tokenizer()).fingerprint != first


def test_load_reads_a_local_folder_and_names_a_missing_one(tmp_path) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    loaded = Backbone.load(tmp_path / "model", precision="float32")
    assert loaded.fingerprint and loaded.hidden_size == 16
    with pytest.raises(ValueError, match="nowhere"):
        Backbone.load(tmp_path / "nowhere")


@pytest.mark.parametrize("make", [tiny_llama, tiny_t5])
def test_a_loaded_model_keeps_bfloat16_products_in_bfloat16(tmp_path, make) -> None:
    make().save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded = Backbone.load(tmp_path, precision="bfloat16", max_length=16)
    wide = Backbone.load(tmp_path, precision="float32", max_length=16)
    wide.precision = "bfloat16"  # narrowed by autocast at every call
    assert loaded.fingerprint == wide.fingerprint
    assert loaded.embedding.weight.dtype == torch.float32
    kinds = {m.weight.dtype for m in loaded.modules() if isinstance(m, torch.nn.Linear)}
    assert kinds == {torch.bfloat16}
    batch = wide.collate([[8, 9, 10, 3], [11, 12, 3]])
    found = []
    for backbone in (loaded, wide):
        prompt = SoftPrompt(initial_prompt(wide, 4))
        logits = backbone(prompt, batch).logits
        logits.square().sum().backward()
        found.append((logits.detach(), prompt.prompt.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_bfloat16_runs_the_products_only_in_bfloat16(llama: Backbone) -> None:
    half = Backbone(tiny_llama(), tiny_tokenizer(), precision="bfloat16")
    prompt = SoftPrompt(start(half))
    logits = half(prompt, half.collate(ROWS)).logits
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, llama(prompt, llama.collate(ROWS)).logits, rtol=0.1, atol=0.2)
    logits.sum().backward()
    assert prompt.prompt.grad.dtype == torch.float32
