"""A frozen causal or encoder-decoder language model that reads a soft prompt in front of its text.

The prompt stands before the input embeddings: of a causal model, or of the encoder, as in the papers; the attention
mask is extended over it. With placement "encoder-decoder" its first half stands before the encoder's input and its
second half before the decoder's. Text is padded on the left for a causal model, so that the answer follows directly;
answers are padded on the right. Nothing is between prompt and text: padding stands before both, but for prompts that
are read once for many rows.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import logging

from prompttransfer.distributed import processes
from prompttransfer.models.abilities import decoder_start, learned_positions, window
from prompttransfer.models.dropout import dropping, has_dropout
from prompttransfer.models.fingerprint import fingerprint
from prompttransfer.models.head import keep_float32
from prompttransfer.models.memory import recompute_layers
from prompttransfer.models.padding import extended, padded, without_gap
from prompttransfer.models.prefix import Prefix
from prompttransfer.models.tokens import Tokens
from prompttransfer.settings.joins import Join

Batch = dict[str, Tensor]
T = TypeVar("T")
IGNORED = -100  # a label that is no token

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
    """Logits (N, V) float32 of the N answer tokens of all rows, row after row, and hidden states when asked for.

    hidden: each (B, N, H) with its mask (B, N); N are the positions of the text, or of prompt and text.
    """

    logits: Tensor
    hidden: tuple[tuple[Tensor, Tensor], ...] = ()


@dataclass(frozen=True)
class PlacedInput:
    """Rows with a prompt, as a model reads them.

    embeds: (B, N, H); mask: (B, N), or (B, L+N) behind a prefix of L tokens that is known already; text: (B, S), what
    of the last S positions is no prompt and no padding; decoder: (B, L/2, H), the part of the prompt before a
    decoder's input.
    """

    embeds: Tensor
    mask: Tensor
    text: Tensor
    decoder: Tensor | None = None
    prefix: Prefix | None = None

    def select(self, index: Tensor) -> PlacedInput:
        """Some rows, or rows several times."""
        decoder = None if self.decoder is None else self.decoder[index]
        return PlacedInput(self.embeds[index], self.mask[index], self.text[index], decoder, self.prefix)


class Backbone(nn.Module):
    """A frozen model and its tokenizer.

    Args:
        model: a transformers causal or encoder-decoder model; frozen and kept in evaluation mode here.
        tokenizer: its tokenizer.
        precision: "float32", "bfloat16" (autocast; weights, prompts and logits stay float32) or "auto": bfloat16 where
            the device multiplies it natively. Never float16: prompts and some models (T5) overflow in it.
        max_length: text tokens kept of a row; the last ones, because templates end in the question to be answered.
        placement: "encoder", or "encoder-decoder" (for models that have both): half of the prompt before each.
        checkpointing: compute activations again in the backward pass: less memory, more time.

    Attributes:
        sharded: every forward takes all processes, see `prompttransfer.models.sharding`.
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
            raise ValueError("placement 'encoder-decoder' wants an encoder-decoder model, got a causal one")
        self.placement = placement
        self.checkpointing = checkpointing
        self.sharded = False
        if checkpointing:
            recompute_layers(model)
        self.fingerprint = fingerprint(model, tokenizer)
        if precision == "auto":
            precision = "bfloat16" if native_bfloat16(self.device) else "float32"
        self.precision = precision
        accepted = set(inspect.signature(model.forward).parameters)
        self._keeps_logits = "logits_to_keep" in accepted
        self._takes_positions = "position_ids" in accepted
        if self._keeps_logits or self.seq2seq:  # of other models they are computed for all positions, which costs more
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
        """What the results of a stage depend on, for its key in the store."""
        return {"model": self.fingerprint, "precision": self.precision, "placement": self.placement}

    def share(self, batches: Sequence[T]) -> Sequence[T]:
        """Of many batches to be read, those for this process; all of them where every forward takes all processes."""
        return batches if self.sharded else processes.mine(batches)

    def joined(self, part: Tensor) -> Tensor:
        """The results of all processes, each of which left those of the others at 0; shape and type stay."""
        return part if self.sharded else processes.total(part)

    def collected(self, part: T) -> list[T]:
        """The results of all processes, one by one."""
        return [part] if self.sharded else processes.gather(part)

    def train(self, mode: bool = True) -> Backbone:
        """Stays in evaluation mode; see `dropping`."""
        return super().train(False)

    @cached_property
    def tokens(self) -> Tokens:
        """The tokenizer as this model reads with it."""
        return Tokens(self.tokenizer, seq2seq=self.seq2seq)

    @cached_property
    def has_dropout(self) -> bool:
        """Whether the model has dropout of its own."""
        return has_dropout(self.model)

    def dropping(self, *seeds: int) -> AbstractContextManager:
        """The model's own dropout inside, for what is read with gradients; see `prompttransfer.models.dropout`."""
        return dropping(self.model, self.device, seeds)

    def encode(
        self, texts: Sequence[str], max_length: int | None = None, cut: str = "start", cue: str = ""
    ) -> list[list[int]]:
        """Token ids of each text, at most max_length, with what the tokenizer writes before and behind every text.

        Args:
            cut: where a text is too long, its "start" or its "end" is cut off; at least one token of it stays.
            cue: written behind every text; never cut.
        """
        return self.tokens.texts(texts, max_length or self.max_length, cut, cue)

    def encode_answers(
        self, answers: Sequence[str], max_length: int | None = None, *, end: bool = True, join: Join | None = None
    ) -> list[list[int]]:
        """Token ids of each answer as the model would write it after a text, at most max_length, and the end token.

        Args:
            join: how it joins the text of a causal model; None: behind a space.

        Raises:
            ValueError: an answer has no token of its own: it is empty, or all of it is unknown to the vocabulary.
        """
        return self.tokens.answers(answers, max_length, end, join)

    def collate(self, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]] | None = None) -> Batch:
        """Pad rows of token ids to input_ids and attention_mask (B, S) int64, on the left for a causal model.

        Args:
            answers: token ids of each row's answer; they become labels (B, A) int64, filled up with -100.
        """
        ids, mask = padded(rows, self.pad, left=not self.seq2seq)
        batch = {"input_ids": ids, "attention_mask": mask}
        if answers is not None:
            batch["labels"], _ = padded(answers, IGNORED)
        return batch

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
        """Logits for the answer tokens of every row; of an answer's later tokens, given the earlier ones.

        Args:
            prompt: put in front of the text; None is the model without a prompt (zero-shot).
            batch: of `collate`, on this device. Without labels, the logits are those of the first answer token.
            task_ids: (B,), the row of a multi-task prompt that each text belongs to.
            hidden: "none", "last" or "all": hidden states to return (encoder and decoder, for an encoder-decoder).
            hidden_positions: those of the "text" and the answer, or "all" with those of the prompt.
            prefix: what `read` made of the prompt, if that is known already.
        """
        if self.model.training and not torch.is_grad_enabled():  # a teacher: it has no dropout
            self.model.eval()
            wanted: dict[str, Any] = {"hidden": hidden, "hidden_positions": hidden_positions, "prefix": prefix}
            try:
                return self.forward(prompt, batch, task_ids=task_ids, **wanted)
            finally:
                self.model.train()
        mask, labels = batch["attention_mask"], batch.get("labels")
        if labels is None:
            labels = mask.new_zeros(len(mask), 1)
        # What is read of an answer: all but its last token.
        written, written_mask = labels[:, :-1].clamp(min=0), (labels[:, 1:] != IGNORED).to(mask.dtype)
        text = self.embedding(batch["input_ids"])
        if not self.seq2seq and written.shape[1]:
            text = torch.cat([text, self.embedding(written)], dim=1)
            mask = torch.cat([mask, written_mask], dim=1)
        whole = hidden != "none" and hidden_positions == "all"
        if prompt is not None and (whole or not self.sees(prompt.length + text.shape[1])):
            prefix = None  # it holds no hidden states of the prompt, and rows behind it are padded in between
        elif prompt is not None and prefix is None:
            prefix = self.read(prompt, task_ids, rows=len(mask))
        placed = self.place(prompt, text, mask, task_ids, prefix, seen=batch["input_ids"].shape[1])
        options: dict[str, Any] = {"output_hidden_states": hidden != "none", "return_dict": True}
        if self.seq2seq:
            lead = self.decoder_lead.to(mask.device).expand(len(mask), -1)
            options |= self._decoder_inputs(placed, torch.cat([lead, written], dim=1))
        with self.autocast():
            result = self.run(placed, keep=labels.shape[1], **options)
        logits = result.logits[:, -labels.shape[1] :]
        # One token for every row needs no look at the labels, which would wait for a GPU.
        logits = logits[:, 0] if labels.shape[1] == 1 else logits[labels != IGNORED]
        return Output(logits.float(), self._hidden_states(result, placed, written_mask, hidden, whole))

    def place(
        self,
        prompt: Prompt | None,
        text: Tensor,
        mask: Tensor,
        task_ids: Tensor | None = None,
        prefix: Prefix | None = None,
        seen: int | None = None,
    ) -> PlacedInput:
        """Put a prompt in front of embedded rows (B, S, H) with their mask (B, S).

        Args:
            seen: positions that a prompt that depends on the row may look at, all by default; the others are those of
                the answer.

        Raises:
            ValueError: rows are longer than the model's table of positions.
        """
        positions = text.shape[1] + (prompt.length if prompt is not None else 0)
        if self.positions is not None and positions > self.positions:
            raise ValueError(
                f"got {positions} positions of prompt and text, the model has {self.positions}; "
                "want a smaller max_length"
            )
        if prompt is None:
            return PlacedInput(text, mask, mask)
        if prefix is not None:
            return PlacedInput(text, extended(mask, prompt.length), mask, prefix=prefix)
        if prompt.per_instance and seen is not None:
            first = prompt.prepend(text[:, :seen], task_ids, mask[:, :seen])
            embeds = torch.cat([first, text[:, seen:]], dim=1)
        else:
            embeds = prompt.prepend(text, task_ids, mask)
        if not self.seq2seq:
            return PlacedInput(*without_gap(embeds, mask, prompt.length), mask)
        if self.placement == "encoder":
            return PlacedInput(embeds, extended(mask, prompt.length), mask)
        if prompt.length % 2:
            raise ValueError(f"placement 'encoder-decoder' halves the prompt, got {prompt.length} prompt tokens")
        half = prompt.length // 2
        encoder = torch.cat([embeds[:, :half], embeds[:, prompt.length :]], dim=1)
        return PlacedInput(encoder, extended(mask, half), mask, decoder=embeds[:, half : prompt.length])

    def read(self, prompt: Prompt, task_ids: Tensor | None = None, *, rows: int | None = None) -> Prefix | None:
        """Keys and values of a prompt, to be read by many rows; None where rows cannot share them, or too few would.

        Args:
            task_ids: (B,), of the rows that will read them; not needed for a prompt that all rows share.
            rows: how many rows will read them, if that is known.
        """
        # Computing again in the backward pass would write into the cache a second time; and sharded layers are only
        # gathered again for gradients that arrive at their outputs, not at their keys and values.
        if prompt.per_instance or self.checkpointing or (self.sharded and torch.is_grad_enabled()):
            return None
        if self.model.training:  # dropout: every row has masks of its own, over the prompt too
            return None
        if not self.reads_prompts_once:
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
        with self.autocast():
            return self._prefix(embeds, index if prompts > 1 else None)  # None: repeated without a copy of its own

    @cached_property
    def reads_prompts_once(self) -> bool:
        """Whether rows that continue from the keys and values of a prompt get the logits of the plain forward.

        The model is asked, on two short rows: attention that looks ahead, recurrent layers, distances that count
        padding and caches of another form rule it out, and new families bring new reasons. See also `sees`.
        """
        if self.seq2seq:
            return False
        embedded = self.embedding(torch.arange(10, device=self.device))
        prompt, text = embedded[None, :4], embedded[4:].view(2, 3, -1)
        mask = torch.tensor([[1, 1, 1], [0, 0, 1]], device=self.device)
        rows = torch.cat([prompt.expand(2, -1, -1), text], dim=1)
        with torch.no_grad(), self.autocast():
            plain = self.run(PlacedInput(*without_gap(rows, mask, 4), mask)).logits[:, -1]
            try:
                shared = self.run(PlacedInput(text, extended(mask, 4), mask, prefix=self._prefix(prompt))).logits[:, -1]
            except Exception:  # every family refuses in its own way
                return False
        # A computation that differs is off by the size of the logits; rounding is not, be it that of TF32 or bfloat16.
        inside = torch.bfloat16 if self.precision == "bfloat16" else plain.dtype
        tolerance = max(1e-2, torch.finfo(inside).eps ** 0.5)
        return bool((shared - plain).abs().max() <= tolerance * plain.std())

    @cached_property
    def positions(self) -> int | None:
        """Positions of prompt and text that the model has a place for; None: any number."""
        return learned_positions(self.model)

    def sees(self, positions: int) -> bool:
        """Whether all layers look back over so many positions; those with a window count the padding in between."""
        reach = window(self.model)
        return reach is None or positions <= reach

    def _worth_a_pass(self, saved_tokens: int) -> bool:
        if self.device.type == "cpu":
            return saved_tokens > 0
        weights = sum(parameter.numel() for parameter in self.model.parameters()) - self.embedding.weight.numel()
        return saved_tokens * weights / self.layers > _PRODUCTS_PER_LAYER_PASS

    @property
    def layers(self) -> int:
        return self.model.config.get_text_config(decoder=True).num_hidden_layers

    def _prefix(self, embeds: Tensor, index: Tensor | None = None) -> Prefix:
        """Prompts (G, L, H) through the model, see `Prefix`."""
        # Not the model's own kind of cache: layers with a sliding window must keep the whole prompt as well, because
        # rows that start behind it see different parts of it. Their masks hide the rest.
        cache = DynamicCache()
        self.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, **self._kept_logits(1))
        return Prefix.of(cache, self.layers, index)

    def run(self, placed: PlacedInput, *, keep: int = 1, cache: DynamicCache | None = None, **options: Any) -> Any:
        """The model on placed rows; the logits are those of the last `keep` positions at least.

        Args:
            cache: an empty one for the keys and values of all positions, or one of a prefix; causal models only.
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

    def encoder(self, placed: PlacedInput) -> Tensor:
        """What an encoder makes of placed rows, (B, N, H)."""
        return self.model.get_encoder()(inputs_embeds=placed.embeds, attention_mask=placed.mask).last_hidden_state

    def decode(self, state: Tensor, placed: PlacedInput, written: Tensor) -> Tensor:
        """Logits (B, A, V) of a decoder that has written (B, A-1) token ids, after an encoder's output (B, N, H)."""
        lead = self.decoder_lead.to(written.device).expand(len(written), -1)
        inputs = self._decoder_inputs(placed, torch.cat([lead, written], dim=1))
        with self.autocast():
            output = BaseModelOutput(last_hidden_state=state)
            result = self.model(encoder_outputs=output, attention_mask=placed.mask, use_cache=False, **inputs)
        return result.logits[:, -written.shape[1] - 1 :]

    @cached_property
    def decoder_lead(self) -> Tensor:
        """Token ids (1, 1 or 2) that a decoder reads before it writes an answer.

        Where the tokenizer starts every text with a token (BART), the decoder has learnt to read that before an answer.

        Raises:
            ValueError: the model does not say which token its decoder starts with.
        """
        start = decoder_start(self.model)
        if start is None:
            likely = next(iter(self.tokens.start), None)
            hint = f"; usually {likely} for this tokenizer" if likely is not None else ""
            raise ValueError(
                f"{type(self.model).__name__} does not say which token its decoder starts with; "
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

    def _hidden_states(
        self, result: Any, placed: PlacedInput, written: Tensor, which: str, whole: bool
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Hidden states with their masks; `whole`: with those of the prompt. written: mask of decoder inputs."""
        if which == "none":
            return ()
        chosen = slice(-1, None) if which == "last" else slice(1, None)
        states = result.encoder_hidden_states if self.seq2seq else result.hidden_states
        mask = placed.mask if whole else placed.text
        read = tuple((state[:, -mask.shape[1] :], mask) for state in states[chosen])
        if not self.seq2seq:
            return read
        lead = written.new_ones(len(written), self.decoder_lead.shape[1])
        mask = torch.cat([lead, written], dim=1)
        if whole and placed.decoder is not None:
            mask = extended(mask, placed.decoder.shape[1])
        return read + tuple((state[:, -mask.shape[1] :], mask) for state in result.decoder_hidden_states[chosen])

    def autocast(self) -> AbstractContextManager:
        """What a forward of the model has to run in."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


_QUIET = threading.Lock()
_quieted: list[tuple[int, bool]] = []  # for every block that is open, what was before the first one


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and no advice from transformers inside: progress is shown in one place only.

    Blocks of several threads may overlap; the last one to end puts back what was before the first.
    """
    with _QUIET:
        _quieted.append(_quieted[0] if _quieted else (logging.get_verbosity(), logging.is_progress_bar_enabled()))
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    try:
        yield
    finally:
        with _QUIET:
            verbosity, bars = _quieted.pop()
            if not _quieted:
                logging.set_verbosity(verbosity)
                if bars:
                    logging.enable_progress_bar()


def native_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Without these instructions bfloat16 products are emulated and slower than float32.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
