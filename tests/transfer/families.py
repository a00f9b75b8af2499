"""Tiny random models of many families: no hub, no downloads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tiny import VOCABULARY, tiny_llama, tiny_t5, tiny_tokenizer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
    MT5Config,
    MT5ForConditionalGeneration,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from prompttransfer.models import Backbone, quiet_transformers

Make = Callable[[], PreTrainedModel]

_WORDS: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 2,
}
_SIZES = _WORDS | {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
_LLAMA_LIKE = _SIZES | {"num_key_value_heads": 1, "head_dim": 8}
_T5_LIKE = _WORDS | {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
_GEMMA2 = _LLAMA_LIKE | {"query_pre_attn_scalar": 8}
_GEMMA3 = _GEMMA2 | {"layer_types": ["sliding_attention", "full_attention"]}


def _mt5(**more: Any) -> PreTrainedModel:
    return MT5ForConditionalGeneration(MT5Config(feed_forward_proj="gated-gelu", **_T5_LIKE | more))


def _bart(**more: Any) -> PreTrainedModel:
    sizes = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 64, "init_std": 0.3}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    return BartForConditionalGeneration(BartConfig(decoder_start_token_id=2, **_WORDS | sizes | heads | more))


def _opt() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(word_embed_proj_dim=16, max_position_embeddings=64, init_std=0.3, **_WORDS | sizes))


def _gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3, **_WORDS))


def _gpt() -> PreTrainedModel:
    sizes = {"n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    return OpenAIGPTLMHeadModel(OpenAIGPTConfig(**_WORDS | sizes))


def _gpt_oss() -> PreTrainedModel:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    layers = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return GptOssForCausalLM(GptOssConfig(**_LLAMA_LIKE | experts | layers))


def _jamba() -> PreTrainedModel:
    recurrent = {"mamba_d_state": 4, "mamba_dt_rank": 2, "use_mamba_kernels": False}
    layers = {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2}
    return JambaForCausalLM(JambaConfig(**_LLAMA_LIKE | recurrent | layers))


def _falcon(**more: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.3}
    return FalconForCausalLM(FalconConfig(**_WORDS | sizes | more))


def _mpt() -> PreTrainedModel:
    return MptForCausalLM(MptConfig(d_model=16, n_heads=2, n_layers=2, max_seq_len=64, initializer_range=0.3, **_WORDS))


SEQ2SEQ: dict[str, Make] = {
    "t5": tiny_t5,
    "t5-tied": lambda: T5ForConditionalGeneration(T5Config(tie_word_embeddings=True, **_T5_LIKE)),
    "mt5": _mt5,
    "bart": _bart,
    "bart-scaled": lambda: _bart(scale_embedding=True),
}
# A window of 4 is shorter than prompts, one of 8 than prompts and texts; one of 13 holds the longest without an answer.
CAUSAL: dict[str, Make] = {
    "llama": tiny_llama,
    "gpt": _gpt,
    "gpt2": _gpt2,
    "gpt_oss": _gpt_oss,
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**_SIZES | {"num_key_value_heads": 1})),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**_LLAMA_LIKE)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**_LLAMA_LIKE)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(sliding_window=64, **_GEMMA2)),
    "gemma2-window": lambda: Gemma2ForCausalLM(Gemma2Config(sliding_window=4, **_GEMMA2)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(sliding_window=64, **_GEMMA3)),
    "gemma3-window": lambda: Gemma3ForCausalLM(Gemma3TextConfig(sliding_window=8, **_GEMMA3)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(sliding_window=13, **_LLAMA_LIKE)),
    "mistral-window": lambda: MistralForCausalLM(MistralConfig(sliding_window=8, **_LLAMA_LIKE)),
    "phi": lambda: PhiForCausalLM(PhiConfig(**_SIZES)),
    "opt": _opt,
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(rotary_pct=0.5, **_SIZES)),
    "bloom": lambda: BloomForCausalLM(
        BloomConfig(hidden_size=16, n_layer=2, n_head=2, initializer_range=0.3, **_WORDS)
    ),
    "falcon": _falcon,
    "falcon-alibi": lambda: _falcon(alibi=True),
    "mpt": _mpt,
    "jamba": _jamba,
}
# Attention that sees later tokens, so such a model must not generate an answer token by token.
_OTHERS: dict[str, Make] = {
    "two-way": lambda: Gemma3ForCausalLM(Gemma3TextConfig(use_bidirectional_attention=True, **_GEMMA3)),
}
FAMILIES = SEQ2SEQ | CAUSAL | _OTHERS


def load(family: str, attention: str = "eager", **options: Any) -> Backbone:
    """A backbone with the weights of seed 0, which is the same at every call."""
    torch.manual_seed(0)
    model = FAMILIES[family]()
    with quiet_transformers():
        model.set_attn_implementation(attention)
    return Backbone(model, tiny_tokenizer(), **{"precision": "float32", "max_length": 16} | options)
