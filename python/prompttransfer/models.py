"""A frozen causal or encoder-decoder language model that reads a soft prompt in front of its text.

The prompt stands before the input embeddings (of the encoder only, for an encoder-decoder); the attention mask is
extended over it. A row is answered with one token: the first token of the answer string, read at the last position
(causal, text padded on the left) or at the first decoder position (encoder-decoder).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging

from prompttransfer.fingerprint import fingerprint
from prompttransfer.prefix import Prefix

Batch = dict[str, Tensor]

# A GPU waits for the launches of a second pass over the layers about as long as it takes to multiply so many numbers;
# where fewer are saved, reading a prompt once is slower than reading it with every row.
_PRODUCTS_PER_LAYER_PASS = 1e10


class Prompt(Protocol):
    """What `Backbone` needs of a prompt; see `prompttransfer.prompts`."""

    length: int
    hidden_size: int
    count: int
    per_instance: bool

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor: ...


@dataclass
class Output:
    """Logits at the answer positions (B, V) float32, and hidden states when asked for.

    hidden: each (B, N, H) with its mask (B, N); N are the positions of the text, or of prompt and text.
    """

    logits: Tensor
    hidden: tuple[tuple[Tensor, Tensor], ...] = ()


class Backbone(nn.Module):
    """A frozen model and its tokenizer.

    Args:
        model: a transformers causal or encoder-decoder model; frozen and kept in evaluation mode here.
        tokenizer: its tokenizer.
        precision: "float32", "bfloat16" (autocast; weights and prompts stay float32) or "auto": bfloat16 where the
            device multiplies it natively.
        max_length: text tokens kept of a row; the last ones, because templates end in the question to be answered.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, *, precision: str = "auto", max_length: int = 256) -> None:
        super().__init__()
        if precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision: got {precision!r}, want auto, float32 or bfloat16")
        self.model = model.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.seq2seq = bool(model.config.is_encoder_decoder)
        self.fingerprint = fingerprint(model, tokenizer)
        if precision == "auto":
            precision = "bfloat16" if _native_bfloat16(self.device) else "float32"
        self.precision = precision
        accepted = set(inspect.signature(model.forward).parameters)
        self._causal_options: dict[str, Any] = {"use_cache": False}
        if "logits_to_keep" in accepted:
            self._causal_options["logits_to_keep"] = 1
        self._takes_positions = "position_ids" in accepted
        pad = tokenizer.pad_token_id
        self._pad = pad if pad is not None else (tokenizer.eos_token_id or 0)

    @classmethod
    def load(cls, name: str | Path, *, precision: str = "auto", max_length: int = 256) -> Backbone:
        """Load a hub id or a local folder onto the accelerator if there is one (float32 weights; safetensors only)."""
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(name)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"model {str(name)!r} is neither a folder of a transformers model nor a hub id: {error}"
            ) from error
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # On the CPU the fused attention's backward is slower than plain products for the short rows of prompt tuning.
        attention = {"attn_implementation": "eager"} if device.type == "cpu" else {}
        with quiet_transformers():
            model = kind.from_pretrained(name, dtype=torch.float32, use_safetensors=True, **attention)
        tokenizer = AutoTokenizer.from_pretrained(name)
        backbone = cls(model.to(device), tokenizer, precision=precision, max_length=max_length)
        if backbone.precision == "bfloat16":
            _narrow_products(model)
        return backbone

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

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode: no dropout in a frozen model."""
        return super().train(False)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, at most max_length (the last ones)."""
        rows = self.tokenizer(list(texts), add_special_tokens=True)["input_ids"]
        return [row[-self.max_length :] for row in rows]

    def answer_tokens(self, choices: Sequence[str]) -> list[int]:
        """First token of each answer string as the model would write it after the text.

        Raises:
            ValueError: two answers start with the same token, so the first position cannot tell them apart.
        """
        # After a colon, as in the templates: the tokenizer decides by itself how a following word starts.
        context = "" if self.seq2seq else "Answer:"
        lead = self.tokenizer(context, add_special_tokens=False)["input_ids"]
        tokens: dict[int, str] = {}
        for choice in choices:
            ids = self.tokenizer(f"{context} {choice.strip()}".strip(), add_special_tokens=False)["input_ids"]
            own = ids[_common_prefix(lead, ids) :]
            if not own:
                raise ValueError(f"answer {choice!r} has no token of its own in this model's vocabulary")
            if own[0] in tokens:
                raise ValueError(
                    f"answers {tokens[own[0]]!r} and {choice!r} start with the same token "
                    f"{self.tokenizer.convert_ids_to_tokens(own[0])!r}; choose answers that differ in it"
                )
            tokens[own[0]] = choice
        return list(tokens)

    def collate(self, rows: Sequence[Sequence[int]]) -> Batch:
        """Pad rows of token ids to input_ids and attention_mask (B, S) int64: on the left for a causal model."""
        longest = max(map(len, rows), default=0)
        ids = torch.full((len(rows), longest), self._pad, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            place = slice(0, len(row)) if self.seq2seq else slice(longest - len(row), longest)
            ids[index, place] = torch.tensor(row, dtype=torch.int64)
            mask[index, place] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def forward(
        self,
        prompt: Prompt | None,
        batch: Batch,
        *,
        task_ids: Tensor | None = None,
        hidden: str = "none",
        hidden_positions: str = "all",
        prefix: Prefix | None = None,
    ) -> Output:
        """Logits at the answer position of every row.

        Args:
            prompt: put in front of the text; None is the model without a prompt (zero-shot).
            batch: input_ids and attention_mask (B, S) of `collate`, on this device.
            task_ids: (B,), the row of a multi-task prompt that each text belongs to.
            hidden: "none", "last" or "all": hidden states to return (encoder and decoder, for an encoder-decoder).
            hidden_positions: those of the "text", or "all" with those of the prompt.
            prefix: what `read` made of the prompt, if that is known already.
        """
        text = self.embedding(batch["input_ids"])
        embeds, mask = text, batch["attention_mask"]
        if prompt is not None:
            if hidden != "none" and hidden_positions == "all":
                prefix = None  # it holds no hidden states of the prompt
            elif prefix is None:
                prefix = self.read(prompt, task_ids, rows=len(mask))
            if prefix is None:
                embeds = prompt.prepend(text, task_ids, mask)
            mask = torch.cat([mask.new_ones(len(mask), prompt.length), mask], dim=1)
        options: dict[str, Any] = {"output_hidden_states": hidden != "none", "return_dict": True}
        with self._autocast():
            result = self._run(embeds, mask, prefix, **options)
        positions = text.shape[1] if hidden_positions == "text" else embeds.shape[1]
        return Output(result.logits[:, -1].float(), self._hidden_states(result, mask, hidden, positions))

    def read(self, prompt: Prompt, task_ids: Tensor | None = None, *, rows: int | None = None) -> Prefix | None:
        """Keys and values of a prompt, to be read by many rows; None where rows cannot share them, or too few would.

        Args:
            task_ids: (B,), of the rows that will read them; not needed for a prompt that all rows share.
            rows: how many rows will read them, if that is known.
        """
        if prompt.per_instance or not self.reads_prompts_once:
            return None
        tasks = index = None
        if task_ids is not None and prompt.count > 1:
            tasks, index = task_ids.unique(return_inverse=True)  # a GPU is waited for, only here
        elif task_ids is not None:
            tasks = task_ids[:1]
        prompts = 1 if tasks is None else len(tasks)
        if rows is not None and not self._worth_a_pass((rows - prompts) * prompt.length):
            return None
        embeds = prompt.prepend(self.embedding.weight.new_empty(prompts, 0, self.hidden_size), tasks)
        with self._autocast():
            return self._prefix(embeds, index)

    @cached_property
    def reads_prompts_once(self) -> bool:
        """Whether rows that continue from the keys and values of a prompt get the logits of the plain forward.

        The model is asked, on two short rows: attention that looks ahead, recurrent layers and caches of another
        form rule it out, and new families bring new reasons.
        """
        if self.seq2seq or not self._takes_positions:
            return False
        table = self.embedding.weight
        prompt, text = table[:4].detach()[None], table[4:10].detach().view(2, 3, -1)
        mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 1]], device=self.device)
        with torch.no_grad(), self._autocast():
            plain = self._run(torch.cat([prompt.expand(2, -1, -1), text], dim=1), mask).logits[:, -1]
            try:
                shared = self._run(text, mask, self._prefix(prompt)).logits[:, -1]
            except Exception:  # every family refuses in its own way
                return False
        # A computation that differs is off by the size of the logits; rounding is not, be it that of TF32 or bfloat16.
        tolerance = max(1e-2, torch.finfo(plain.dtype).eps ** 0.5)
        return bool((shared - plain).abs().max() <= tolerance * plain.std())

    def _worth_a_pass(self, saved_tokens: int) -> bool:
        if self.device.type == "cpu":
            return saved_tokens > 0
        weights = sum(parameter.numel() for parameter in self.model.parameters()) - self.embedding.weight.numel()
        return saved_tokens * weights / self._layers > _PRODUCTS_PER_LAYER_PASS

    @property
    def _layers(self) -> int:
        return self.model.config.get_text_config(decoder=True).num_hidden_layers

    def _prefix(self, embeds: Tensor, index: Tensor | None = None) -> Prefix:
        """Prompts (G, L, H) through the model, see `Prefix`."""
        # Not the model's own kind of cache: layers with a sliding window must keep the whole prompt as well, because
        # rows that start behind it see different parts of it. Their masks hide the rest.
        cache = DynamicCache()
        options = self._causal_options | {"use_cache": True, "past_key_values": cache}
        self.model(inputs_embeds=embeds, **options)
        return Prefix.of(cache, self._layers, index)

    def _run(self, embeds: Tensor, mask: Tensor, prefix: Prefix | None = None, **options: Any) -> Any:
        """The model on embeddings (B, N, H) behind a prefix of L tokens; mask (B, L+N)."""
        if self.seq2seq:
            start = self.model.config.decoder_start_token_id
            options["decoder_input_ids"] = torch.full((len(mask), 1), start, device=mask.device)
            options["use_cache"] = False
        else:
            options |= self._causal_options
            if self._takes_positions:
                options["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
            if prefix is not None:
                options |= {"past_key_values": prefix.cache(), "use_cache": True}
        return self.model(inputs_embeds=embeds, attention_mask=mask, **options)

    def _hidden_states(
        self, result: Any, mask: Tensor, which: str, positions: int
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        if which == "none":
            return ()
        chosen = slice(-1, None) if which == "last" else slice(1, None)
        states = result.encoder_hidden_states if self.seq2seq else result.hidden_states
        read = tuple((state[:, -positions:], mask[:, -positions:]) for state in states[chosen])
        if not self.seq2seq:
            return read
        first = mask.new_ones(len(mask), 1)
        return read + tuple((state, first) for state in result.decoder_hidden_states[chosen])

    def _autocast(self) -> AbstractContextManager:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and no advice from transformers inside: progress is shown in one place only."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _narrow_products(model: nn.Module) -> None:
    """Store in bfloat16 what autocast would narrow at every call: the same products, in less time and memory."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, Conv1D)):
            for name, parameter in module.named_parameters(recurse=False):
                # A new parameter: an embedding that is tied to this one keeps its own.
                setattr(module, name, nn.Parameter(parameter.detach().bfloat16(), requires_grad=False))


def _native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without these instructions bfloat16 products are emulated and slower than float32.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count
