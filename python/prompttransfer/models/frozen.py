"""A frozen transformers model and its tokenizer.

This module handles the difference between the two kinds of models. A causal model reads a row and continues it. An
encoder-decoder reads it with its encoder and writes the answer with its decoder. A causal model's text is padded on
the left, so that the answer follows directly.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from prompttransfer.distributed import processes
from prompttransfer.models.abilities import decoder_start, learned_positions, window
from prompttransfer.models.attention import without_cudnn_attention
from prompttransfer.models.cuda_graphs import CudaGraphs
from prompttransfer.models.dropout import dropping, has_dropout
from prompttransfer.models.head import keep_float32
from prompttransfer.models.packing import Packing
from prompttransfer.models.prefix import Prefix
from prompttransfer.models.tokens import Tokens
from prompttransfer.settings.joins import Join

T = TypeVar("T")


@dataclass(frozen=True)
class PlacedInput:
    """Rows with a prompt, as a model reads them.

    embeds: (B, N, H).
    mask: (B, N), or (B, L+N) after a prefix of L tokens.
    text: (B, S), 1 for those of the last S positions that are neither prompt nor padding.
    decoder: (B, L/2, H), the part of the prompt before a decoder's input.
    """

    embeds: Tensor
    mask: Tensor
    text: Tensor
    decoder: Tensor | None = None
    prefix: Prefix | None = None

    def select(self, index: Tensor) -> PlacedInput:
        """Rows by index; an index may occur several times."""
        decoder = None if self.decoder is None else self.decoder[index]
        return PlacedInput(self.embeds[index], self.mask[index], self.text[index], decoder, self.prefix)


class FrozenModel(nn.Module):
    """A frozen model with its tokenizer.

    Args:
        model: a transformers causal or encoder-decoder model. It is frozen and kept in evaluation mode.
        tokenizer: the model's tokenizer.
        precision: "float32", "bfloat16" (autocast; weights, prompts and logits stay float32) or "auto": bfloat16 if
            the device supports it natively. Never float16: prompts and some models (T5) overflow in it.
        max_length: text tokens to keep per row; the last ones, because templates end with the question.
        placement: "encoder", or "encoder-decoder" (for models that have both) to put half of the prompt before each.
        checkpointing: recompute activations in the backward pass: less memory, more time.
        cuda_graphs: replay small passes of a causal model on a GPU, see `prompttransfer.models.cuda_graphs`.

    Attributes:
        sharded: whether every forward needs all processes, see `prompttransfer.models.loading`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        precision: str = "auto",
        max_length: int = 256,
        placement: str = "encoder",
        checkpointing: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        super().__init__()
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision: got {precision!r}, want auto, float32 or bfloat16")
        if placement not in ("encoder", "encoder-decoder"):
            raise ValueError(f"placement: got {placement!r}, want encoder or encoder-decoder")
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.seq2seq = bool(model.config.is_encoder_decoder)
        if placement == "encoder-decoder" and not self.seq2seq:
            raise ValueError("placement 'encoder-decoder' needs an encoder-decoder model, got a causal one")
        self.placement = placement
        self.checkpointing = checkpointing
        self.sharded = False
        self.graphs = CudaGraphs() if cuda_graphs and self.device.type == "cuda" else None
        if checkpointing:
            recompute_layers(model)
        self.fingerprint = fingerprint(model, tokenizer)
        if precision == "auto":
            precision = "bfloat16" if native_bfloat16(self.device) else "float32"
        self.precision = precision
        accepted = set(inspect.signature(model.forward).parameters)
        self._keeps_logits = "logits_to_keep" in accepted
        self._takes_positions = "position_ids" in accepted
        if self._keeps_logits or self.seq2seq:  # other models compute them for all positions, which costs more
            keep_float32(model)
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else (tokenizer.eos_token_id or 0)

    @property
    def device(self) -> torch.device:
        return self.embedding.weight.device

    @property
    def embedding(self) -> nn.Embedding:
        """The input embedding table, (V, H)."""
        return self.model.get_input_embeddings()

    @property
    def hidden_size(self) -> int:
        return self.embedding.weight.shape[1]

    @property
    def identity(self) -> dict[str, str]:
        """Facts about the model that the results of a stage depend on, for its key in the store."""
        return {"model": self.fingerprint, "precision": self.precision, "placement": self.placement}

    def share(self, batches: Sequence[T]) -> Sequence[T]:
        """Batches for this process to read; all of them if every forward needs all processes."""
        return batches if self.sharded else processes.mine(batches)

    def joined(self, part: Tensor) -> Tensor:
        """Sum the results of all processes, each of which left the others' at 0. Keeps shape and type."""
        return part if self.sharded else processes.total(part)

    def collected(self, part: T) -> list[T]:
        """The results of all processes, as a list."""
        return [part] if self.sharded else processes.gather(part)

    def train(self, mode: bool = True) -> FrozenModel:
        """Keep evaluation mode in any case; see `dropping`."""
        return super().train(False)

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer, as this model uses it."""
        return Tokens(self.tokenizer, seq2seq=self.seq2seq)

    @cached_property
    def has_dropout(self) -> bool:
        """Whether the model itself has dropout."""
        return has_dropout(self.model)

    def dropping(self, *seeds: int) -> AbstractContextManager:
        """Context in which the model applies its own dropout; see `prompttransfer.models.dropout`."""
        return dropping(self.model, self.device, seeds)

    def encode(
        self, texts: Sequence[str], max_length: int | None = None, cut: str = "start", cue: str = ""
    ) -> list[list[int]]:
        """Token ids of each text, at most max_length, with the tokenizer's special tokens around it.

        Args:
            cut: end of a long text to cut off, "start" or "end". At least one of its tokens stays.
            cue: string to append to every text; never cut.
        """
        return self.tokens.texts(texts, max_length or self.max_length, cut, cue)

    def encode_answers(
        self, answers: Sequence[str], max_length: int | None = None, *, end: bool = True, join: Join | None = None
    ) -> list[list[int]]:
        """Token ids of each answer as the model would write it after a text, at most max_length, and the end token.

        Args:
            join: how an answer joins the text of a causal model; None: after a space.

        Raises:
            ValueError: an answer has no tokens, because it is empty or none of it is in the vocabulary.
        """
        return self.tokens.answers(answers, max_length, end, join)

    @cached_property
    def positions(self) -> int | None:
        """Largest number of positions of prompt and text; None: no limit."""
        return learned_positions(self.model)

    def sees(self, positions: int) -> bool:
        """Whether all layers attend over this many positions. Layers with a window also count padding."""
        reach = window(self.model)
        return reach is None or positions <= reach

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config(decoder=True).num_hidden_layers

    def run(self, placed: PlacedInput, *, keep: int = 1, cache: DynamicCache | None = None, **options: Any) -> Any:
        """Run the model on placed rows. The logits cover at least the last `keep` positions.

        Args:
            cache: an empty cache for the keys and values of all positions, or a prefix's cache; causal models only.
        """
        mask = placed.mask
        if self.seq2seq:
            options.setdefault("use_cache", False)
            return self.model(inputs_embeds=placed.embeds, attention_mask=mask, **options)
        options |= self._kept_logits(keep)
        if self._takes_positions:
            options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -placed.embeds.shape[1] :]
        if cache is None and placed.prefix is not None:
            cache = placed.prefix.cache()
        options |= {"past_key_values": cache, "use_cache": True} if cache is not None else {"use_cache": False}
        return self.model(inputs_embeds=placed.embeds, attention_mask=mask, **options)

    def run_packed(self, embeds: Tensor, packing: Packing) -> Tensor:
        """Logits of the last positions of packed rows (P, N, H), of at least those that are kept."""
        attention = self.model.config._attn_implementation
        mask = packing.blocks if attention == "flex_attention" else packing.mask
        if attention == "eager":  # adds its mask
            mask = torch.zeros_like(mask, dtype=embeds.dtype).masked_fill_(~mask, torch.finfo(embeds.dtype).min)
        options = self._kept_logits(packing.keep) | {"position_ids": packing.positions, "use_cache": False}
        return self.model(inputs_embeds=embeds, attention_mask=mask, **options).logits

    def encoder(self, placed: PlacedInput) -> Tensor:
        """Output (B, N, H) of the encoder for placed rows."""
        return self.model.get_encoder()(inputs_embeds=placed.embeds, attention_mask=placed.mask).last_hidden_state

    def decode(self, state: Tensor, placed: PlacedInput, written: Tensor) -> Tensor:
        """Logits (B, A, V) of the decoder after (B, A-1) written token ids, given the encoder's output (B, N, H)."""
        lead = self.decoder_lead.to(written.device).expand(len(written), -1)
        inputs = self._decoder_inputs(placed, torch.cat([lead, written], dim=1))
        with self.computing():
            output = BaseModelOutput(last_hidden_state=state)
            result = self.model(encoder_outputs=output, attention_mask=placed.mask, use_cache=False, **inputs)
        return result.logits[:, -written.shape[1] - 1 :]

    @cached_property
    def decoder_lead(self) -> Tensor:
        """Token ids (1, 1 or 2) that a decoder reads before it writes an answer.

        If the tokenizer starts every text with a special token (BART), the decoder has learned to read it first.

        Raises:
            ValueError: the model's configuration has no start token for its decoder.
        """
        start = decoder_start(self.model)
        if start is None:
            likely = next(iter(self.tokens.start), None)
            hint = f"; usually {likely} for this tokenizer" if likely is not None else ""
            raise ValueError(
                f"the configuration of {type(self.model).__name__} has no start token for its decoder; "
                f"set decoder_start_token_id in its config.json{hint}"
            )
        second = getattr(getattr(self.model, "generation_config", None), "forced_bos_token_id", None)
        if second is None:
            second = next(iter(self.tokens.start), None)
        return torch.tensor([[start] if second in (None, start) else [start, second]])

    def _decoder_inputs(self, placed: PlacedInput, ids: Tensor) -> dict[str, Tensor]:
        if placed.decoder is None:
            return {"decoder_input_ids": ids}
        embedded = self.model.get_decoder().get_input_embeddings()(ids)
        return {"decoder_inputs_embeds": torch.cat([placed.decoder.to(embedded.dtype), embedded], dim=1)}

    def _kept_logits(self, keep: int) -> dict[str, int]:
        return {"logits_to_keep": keep} if self._keeps_logits else {}

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context for forward passes of the model: its precision, and kernels with the right gradients."""
        narrow = self.precision == "bfloat16"
        # Its cache is for weights that are trained. CUDA graphs are recorded without it.
        precision = torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False) if narrow else nullcontext()
        with without_cudnn_attention(), precision:
            yield


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without these instructions, bfloat16 products are emulated and slower than float32.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def fingerprint(model: nn.Module, tokenizer: Any) -> str:
    """Hash (16 hex digits) of everything a model computes with: type, weights and vocabulary."""
    digest = hashlib.sha256(type(model).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        content = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(content.view(torch.uint8).numpy().data if content.numel() else b"")
    for key, value in sorted(model.config.to_dict().items()):
        if key not in ("_name_or_path", "transformers_version", "_attn_implementation"):
            digest.update(f"{key}={value!r};".encode())
    digest.update(repr(sorted(tokenizer.get_vocab().items())).encode())
    return digest.hexdigest()[:16]


def recompute_layers(model: nn.Module) -> int:
    """Make every layer of a transformers model keep only its input, and recompute the rest; return the layer count.

    transformers does this in training mode only, and a frozen model is mostly in evaluation mode.

    Raises:
        ValueError: the model has no layers that are known to be safe to recompute.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"checkpointing: {type(model).__name__} has no layers that transformers can recompute; set it to false"
        )
    for layer in layers:
        layer.forward = partial(_recomputed, layer.forward)
    return len(layers)


def _recomputed(forward: Callable[..., Any], *args: object, **kwargs: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # The backward pass computes it again, outside of the caller's context.
    return checkpoint(without_cudnn_attention()(forward), *args, use_reentrant=False, **kwargs)
