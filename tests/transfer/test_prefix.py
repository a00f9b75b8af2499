"""Prompts read once: the logits and gradients of every row read alone, for many families and kinds of prompts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from literal import literal_logits, positions_read
from tiny import VOCABULARY, tiny_llama, tiny_t5, tiny_tokenizer
from torch import Tensor, nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    JambaConfig,
    JambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone
from prompttransfer.prompts import FrozenPrompts, MultitaskPrompt, ParticlePrompts, PromptModule, SoftPrompt

ROWS = [[10, 11, 12, 13, 14, 9, 8, 20], [15, 16], [17], [18, 19, 20]]
EQUAL_ROWS = [[10, 11, 12, 13], [15, 16, 17, 9], [8, 20, 21, 22], [18, 19, 20, 23]]
LABELS = torch.tensor([4, 5, 6, 4])
LENGTH = 5
_SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


def _opt() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(vocab_size=48, word_embed_proj_dim=16, init_std=0.3, pad_token_id=0, **sizes))


# A window of 4 is shorter than the prompt: the end of a text sees nothing of it, its start a part.
SHARING: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": tiny_llama,
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=48, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)),
    "mistral-window": lambda: MistralForCausalLM(MistralConfig(sliding_window=4, **_SIZES)),
    "gemma2-window": lambda: Gemma2ForCausalLM(Gemma2Config(sliding_window=4, query_pre_attn_scalar=8, **_SIZES)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SIZES)),
    "opt": _opt,
}
PLAIN: dict[str, Callable[[], PreTrainedModel]] = {
    "t5": tiny_t5,
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=48, hidden_size=16, n_layer=2, n_head=2)),
}
WITHOUT_PREFIX = PLAIN | {
    "two-way": lambda: Gemma3ForCausalLM(Gemma3TextConfig(use_bidirectional_attention=True, **_SIZES)),
    "recurrent": lambda: JambaForCausalLM(
        JambaConfig(
            attn_layer_period=2,
            attn_layer_offset=1,
            expert_layer_period=2,
            num_experts=2,
            mamba_d_state=4,
            mamba_dt_rank=2,
            use_mamba_kernels=False,
            **_SIZES,
        )
    ),
}


# Gemma 2 caps its attention scores, which the fused attention cannot.
PAIRS = [(name, kind) for name in SHARING for kind in ("eager", "sdpa") if (name, kind) != ("gemma2-window", "sdpa")]


def load(make: Callable[[], PreTrainedModel], attention: str = "eager") -> Backbone:
    torch.manual_seed(0)
    model = make()
    model.set_attn_implementation(attention)
    return Backbone(model, tiny_tokenizer(), precision="float32", max_length=16)


def kinds() -> dict[str, tuple[PromptModule, Tensor]]:
    """Prompts and task ids: one for all rows, and several of which rows choose (one of them by nobody)."""
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
    backbone = load(SHARING[family], attention)
    assert backbone.reads_prompts_once
    prompt, task_ids = kinds()[kind]
    # A window counts the padding in front of a short text.
    texts = EQUAL_ROWS if "window" in family else ROWS
    batch = backbone.collate(texts) | {"labels": LABELS[:, None], "task_ids": task_ids}
    loss = task_loss(backbone, prompt, batch)
    expected = F.cross_entropy(literal_logits(backbone, prompt, texts, task_ids), LABELS)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    for got, want in zip(gradients(loss, prompt), gradients(expected, prompt), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    prompts = len(task_ids.unique())
    read = positions_read(backbone, lambda: backbone(prompt, batch, task_ids=task_ids))
    assert read == prompts * LENGTH + len(texts) * max(map(len, texts))


@pytest.mark.parametrize("kind", ["soft", "multitask"])
@pytest.mark.parametrize("family", PLAIN)
def test_other_families_read_the_prompt_with_every_row(family: str, kind: str) -> None:
    backbone = load(PLAIN[family])
    prompt, task_ids = kinds()[kind]
    got = backbone(prompt, backbone.collate(ROWS), task_ids=task_ids).logits
    torch.testing.assert_close(got, literal_logits(backbone, prompt, ROWS, task_ids), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", WITHOUT_PREFIX)
def test_families_without_a_prefix_are_found_out(family: str) -> None:
    backbone = load(WITHOUT_PREFIX[family])
    assert not backbone.reads_prompts_once
    assert backbone.read(kinds()["soft"][0]) is None


def test_a_prefix_serves_many_batches(llama: Backbone) -> None:
    prompt, task_ids = kinds()["soft"]
    prefix = llama.read(prompt)
    expected = literal_logits(llama, prompt, ROWS, task_ids)
    for chosen in ([0, 1], [2], [3, 1, 0]):
        got = llama(prompt, llama.collate([ROWS[row] for row in chosen]), prefix=prefix).logits
        torch.testing.assert_close(got, expected[chosen], rtol=1e-5, atol=1e-5)


def test_prompts_as_many_as_rows_are_not_read_apart(llama: Backbone) -> None:
    prompt, _ = kinds()["particles"]
    assert llama.reads_prompts_once
    batch = llama.collate(ROWS[:3])
    read = positions_read(llama, lambda: llama(prompt, batch, task_ids=torch.arange(3)))
    assert read == 3 * (LENGTH + max(map(len, ROWS[:3])))


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
        assert whole_mask[:, :LENGTH].all() and torch.equal(whole_mask[:, LENGTH:], mask)
        torch.testing.assert_close(state[mask.bool()], whole[:, LENGTH:][mask.bool()], rtol=1e-4, atol=1e-5)
