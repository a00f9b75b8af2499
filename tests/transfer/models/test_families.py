"""Families of models: what a padded batch gets is what every row gets alone, computed literally."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from families import CAUSAL, SEQ2SEQ, load
from literal import literal_answer_logits, literal_text
from tiny import VOCABULARY
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import GenerationConfig

from prompttransfer.models.answering import Reader
from prompttransfer.prompts import SoftPrompt, initial_prompt

# The longest row, the prompt and the longest answer are longer than the windows of families.py.
ROWS = ((10, 11, 12, 13, 14, 9, 8, 20), (15, 16), (17,), (18, 19, 20))
ANSWERS = ((4, 2), (4, 9, 30, 2), (5, 31, 2), (12,))
LENGTH, END = 5, 2
# One of each kind: of attention, windows, positions and layers. The others are of these kinds too, and slow.
KINDS = ("llama", "gpt", "gpt2", "gpt_oss", "gemma3-window", "mistral-window", "bloom", "jamba", "t5", "bart-scaled")
NAMES = [*CAUSAL, *SEQ2SEQ]
# These have attention of one kind only, or cap its scores or add to their sum, which the fused attention cannot.
_OWN_ATTENTION = ("gemma2", "bloom", "falcon", "mpt", "t5", "mt5", "gpt", "gpt_oss")
FUSED = [name for name in NAMES if name.split("-")[0] not in _OWN_ATTENTION or name == "gpt-neox"]

shared = cache(load)  # for tests that do not change a model


def cases(names: Iterable[str], *more: str) -> list[Any]:
    return [pytest.param(name, *more, marks=[] if name in KINDS else [pytest.mark.slow]) for name in names]


def prompt_of(seed: int = 1) -> SoftPrompt:
    return SoftPrompt(torch.randn(LENGTH, 16, generator=torch.Generator().manual_seed(seed)))


def gradient(loss: Tensor, prompt: SoftPrompt) -> Tensor:
    return torch.autograd.grad(loss, prompt.prompt)[0]


@pytest.mark.parametrize(("family", "attention"), cases(NAMES, "eager") + cases(FUSED, "sdpa"))
def test_logits_and_gradient_are_those_of_every_row_alone(family: str, attention: str) -> None:
    backbone, prompt = shared(family, attention), prompt_of()
    firsts = backbone(prompt, backbone.collate(ROWS)).logits
    whole = backbone(prompt, backbone.collate(ROWS, ANSWERS)).logits
    rows = [literal_answer_logits(backbone, prompt, row, answer) for row, answer in zip(ROWS, ANSWERS, strict=True)]
    expected = torch.cat(rows)
    close = {"rtol": 1e-4, "atol": 1e-5 * float(expected.detach().std())}
    torch.testing.assert_close(firsts, torch.stack([row[0] for row in rows]), **close)
    torch.testing.assert_close(whole, expected, **close)
    tokens = torch.tensor([token for answer in ANSWERS for token in answer])
    got, want = (gradient(F.cross_entropy(logits, tokens), prompt) for logits in (whole, expected))
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * float(want.std()))


@pytest.mark.parametrize("family", cases(NAMES))
def test_scores_of_whole_answers_are_those_of_every_answer_alone(family: str) -> None:
    backbone, prompt = shared(family), prompt_of(2)
    want = torch.empty(len(ROWS), len(ANSWERS))
    with torch.no_grad():
        for i, row in enumerate(ROWS):
            for j, answer in enumerate(ANSWERS):
                logs = literal_answer_logits(backbone, prompt, row, answer).double().log_softmax(dim=-1)
                want[i, j] = logs[range(len(answer)), list(answer)].mean()
    torch.testing.assert_close(Reader(backbone, prompt.composed()).answer_scores(ROWS, ANSWERS), want)


@pytest.mark.parametrize("family", cases(NAMES))
def test_what_is_written_is_the_likeliest_token_again_and_again(family: str) -> None:
    backbone, answers = shared(family), []
    for prompt in map(prompt_of, range(3)):
        want = [literal_text(backbone, prompt, row, 7) for row in ROWS]
        assert Reader(backbone, prompt.composed()).write(ROWS, 6) == want
        answers += want
    assert any(answers)


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_a_model_that_has_generation_settings_of_its_own_writes_the_likeliest_tokens(family: str) -> None:
    backbone, prompt = load(family), prompt_of(3)
    own = GenerationConfig(min_length=9, no_repeat_ngram_size=1, repetition_penalty=9.0, num_beams=2, do_sample=True)
    backbone.model.generation_config = own
    want = [literal_text(backbone, prompt, row, 7) for row in ROWS]
    assert Reader(backbone, prompt.composed()).write(ROWS, 6) == want
    assert backbone.model.generation_config is own


@pytest.mark.parametrize("family", cases(sorted(set(NAMES) - {"gpt"})))  # its layers cannot be computed twice
def test_activations_computed_twice_give_the_same_gradient(family: str) -> None:
    backbone, prompt = load(family, checkpointing=True), prompt_of()
    gradients = []
    for computed in (shared(family), backbone):
        batch = computed.collate(ROWS, ANSWERS)
        tokens = batch["labels"][batch["labels"] >= 0]
        gradients.append(gradient(F.cross_entropy(computed(prompt, batch).logits, tokens), prompt))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4 * float(gradients[0].std()))


def test_layers_that_cannot_be_computed_twice_are_told() -> None:
    with pytest.raises(ValueError, match="checkpointing: OpenAIGPTLMHeadModel has no layers that transformers can"):
        load("gpt", checkpointing=True)


@pytest.mark.parametrize("family", cases(NAMES))
def test_bfloat16_products_give_nearly_the_same(family: str) -> None:
    half, prompt = load(family, precision="bfloat16"), prompt_of()
    logits = half(prompt, half.collate(ROWS, ANSWERS)).logits
    wide = shared(family)(prompt, half.collate(ROWS, ANSWERS)).logits.detach()
    assert logits.dtype == torch.float32 and not torch.equal(logits, wide)
    assert (logits - wide).std() < 0.1 * wide.std()
    own_gradient = gradient(logits.square().mean(), prompt)
    assert own_gradient.dtype == torch.float32 and own_gradient.isfinite().all() and own_gradient.any()


@pytest.mark.parametrize("family", cases(NAMES))
def test_a_prompt_of_tokens_is_those_tokens_in_front_of_the_text(family: str) -> None:
    """Also if embeddings are scaled: here the model itself reads the ids."""
    backbone = shared(family)
    start = initial_prompt(backbone, 3, "text", text="w1 w2 w3")
    ids = [VOCABULARY.index(word) for word in ("w1", "w2", "w3")]
    got = backbone(SoftPrompt(start), backbone.collate(ROWS)).logits
    lead = {"decoder_input_ids": backbone.decoder_lead} if backbone.seq2seq else {"use_cache": False}
    want = [backbone.model(torch.tensor([[*ids, *row]]), **lead).logits[0, -1] for row in ROWS]
    torch.testing.assert_close(got, torch.stack(want), rtol=1e-4, atol=1e-4)


def test_windows_shorter_than_the_rows_are_read_in_one_piece() -> None:
    assert shared("mistral-window").reads_prompts_once and not shared("mistral-window").sees(9)
    assert shared("mistral").sees(LENGTH + 8) and not shared("mistral").sees(LENGTH + 9)
    assert shared("llama").sees(10**6) and shared("bart").sees(10**6)


@pytest.mark.parametrize("how", ["forced by the model", "put by the tokenizer"])
def test_a_decoder_reads_the_start_of_its_texts_before_an_answer(how: str) -> None:
    backbone, prompt = load("bart"), prompt_of()
    bos = VOCABULARY.index("w39")
    if how == "forced by the model":
        backbone.model.generation_config.forced_bos_token_id = bos
    else:
        backbone.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="w39 $A </s>", special_tokens=[("w39", bos), ("</s>", END)]
        )
    assert backbone.decoder_lead.tolist() == [[END, bos]]
    state = {"inputs_embeds": torch.cat([prompt.prompt, backbone.embedding(torch.tensor(ROWS[0]))])[None]}
    got = backbone(prompt, backbone.collate(ROWS[:1], [(4, 9, 2)])).logits
    want = backbone.model(decoder_input_ids=torch.tensor([[END, bos, 4, 9]]), **state).logits[0, 1:]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    written = [END, bos]
    while len(written) < 2 + 4 and END not in written[2:]:
        written.append(int(backbone.model(decoder_input_ids=torch.tensor([written]), **state).logits[0, -1].argmax()))
    expected = backbone.tokenizer.decode(written[2:], skip_special_tokens=True)
    assert Reader(backbone, prompt.composed()).write(ROWS[:1], 3) == [expected]


@pytest.mark.parametrize("family", ["gpt", "gpt2", "opt", "bart"])
def test_rows_longer_than_the_table_of_positions_are_told(family: str) -> None:
    backbone = shared(family)
    assert backbone.positions == 64 and shared("llama").positions is None and shared("t5").positions is None
    backbone(prompt_of(), backbone.collate([[9] * 59]))
    with pytest.raises(ValueError, match="got 65 positions of prompt and text, the model has 64"):
        backbone(prompt_of(), backbone.collate([[9] * 60]))
