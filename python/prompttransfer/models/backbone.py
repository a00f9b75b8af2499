"""A frozen model with a soft prompt before its text: placement, prompts that are read once, and the output.

The prompt comes before the input embeddings of a causal model or of the encoder, as in the papers, and the attention
mask is extended over it. With placement "encoder-decoder", its first half comes before the encoder's input and its
second half before the decoder's. A causal model's text is padded on the left, so that the answer follows directly;
answers are padded on the right. Padding comes before prompt and text, never between them, except for prompts that are
read once for many rows. Where that saves work, the rows of a batch are packed instead, see `packing`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from prompttransfer.models.cuda_graphs import MULTIPLE
from prompttransfer.models.frozen import FrozenModel, PlacedInput
from prompttransfer.models.packing import PackedRows, Packing, layer_products
from prompttransfer.models.padding import extended, padded, without_gap
from prompttransfer.models.prefix import Prefix

Batch = dict[str, Tensor]
IGNORED = -100  # label of positions without a token

# The launches of a second pass over a layer cost a GPU about as much time as this many multiplications. If fewer are
# saved, reading a prompt once is slower than reading it with every row. On an H200 they took 0.57 ms, and bfloat16
# products came at 390e12 multiplications a second.
_PRODUCTS_PER_LAYER_PASS = 2e11


class Prompt(Protocol):
    """Interface of a prompt for `Backbone`; see `prompttransfer.prompts`."""

    length: int
    hidden_size: int
    count: int
    per_instance: bool

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor: ...


@dataclass
class Output:
    """Logits (N, V) float32 of the N answer tokens of all rows, row by row, and the requested hidden states.

    hidden: pairs of a state (B, N, H) and its mask (B, N). N counts the positions of the text, or of prompt and text.
    """

    logits: Tensor
    hidden: tuple[tuple[Tensor, Tensor], ...] = ()


class Backbone(FrozenModel):
    """A frozen model that reads prompts. See `FrozenModel` for its arguments."""

    def collate(self, rows: Sequence[Sequence[int]], answers: Sequence[Sequence[int]] | None = None) -> Batch:
        """Pad rows of token ids to input_ids and attention_mask (B, S) int64; on the left for a causal model.

        Args:
            answers: token ids of each row's answer. They become labels (B, A) int64, padded with -100.
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
        """Compute the logits of every row's answer tokens, each given the answer's earlier tokens.

        Args:
            prompt: prompt before the text; None for the model without a prompt (zero-shot).
            batch: batch from `collate`, on the model's device. Without labels, the logits are those of the first answer
                token.
            task_ids: (B,), index of each row's prompt in a multi-task prompt.
            hidden: hidden states to return: "none", "last" or "all" (of encoder and decoder, for an encoder-decoder).
            hidden_positions: positions of these states: "text" for text and answer, "all" to include the prompt.
            prefix: the prompt as returned by `read`, if it has been read already.
        """
        if self.model.training and not torch.is_grad_enabled():  # a teacher runs without dropout
            self.model.eval()
            wanted: dict[str, Any] = {"hidden": hidden, "hidden_positions": hidden_positions, "prefix": prefix}
            try:
                return self.forward(prompt, batch, task_ids=task_ids, **wanted)
            finally:
                self.model.train()
        mask, labels = batch["attention_mask"], batch.get("labels")
        if labels is None:
            labels = mask.new_zeros(len(mask), 1)
        # The model reads all answer tokens but the last.
        written, written_mask = labels[:, :-1].clamp(min=0), (labels[:, 1:] != IGNORED).to(mask.dtype)
        text = self.embedding(batch["input_ids"])
        if not self.seq2seq and written.shape[1]:
            text = torch.cat([text, self.embedding(written)], dim=1)
            mask = torch.cat([mask, written_mask], dim=1)
        if prefix is None and hidden == "none":
            fast = self._replayed(prompt, text, mask, labels, task_ids)
            if fast is None and prompt is not None:
                fast = self._packed(prompt, text, mask, labels, task_ids)
            if fast is not None:
                return Output(fast)
        whole = hidden != "none" and hidden_positions == "all"
        if prompt is not None and (whole or not self.sees(prompt.length + text.shape[1])):
            prefix = None  # a prefix has no hidden states, and rows after it are padded between prompt and text
        elif prompt is not None and prefix is None:
            prefix = self.read(prompt, task_ids, rows=len(mask))
        placed = self.place(prompt, text, mask, task_ids, prefix, seen=batch["input_ids"].shape[1])
        options: dict[str, Any] = {"output_hidden_states": hidden != "none", "return_dict": True}
        if self.seq2seq:
            lead = self.decoder_lead.to(mask.device).expand(len(mask), -1)
            options |= self._decoder_inputs(placed, torch.cat([lead, written], dim=1))
        with self.computing():
            result = self.run(placed, keep=labels.shape[1], **options)
        logits = _wanted(result.logits[:, -labels.shape[1] :], labels)
        return Output(logits, self._hidden_states(result, placed, written_mask, hidden, whole))

    def place(
        self,
        prompt: Prompt | None,
        text: Tensor,
        mask: Tensor,
        task_ids: Tensor | None = None,
        prefix: Prefix | None = None,
        seen: int | None = None,
    ) -> PlacedInput:
        """Place a prompt before embedded rows (B, S, H) with their mask (B, S).

        Args:
            seen: number of text positions, which a prompt that depends on the row may read; the rest belong to the
                answer. Default: all.

        Raises:
            ValueError: prompt and rows are longer than the model's position table.
        """
        self._check_positions(text.shape[1] + (prompt.length if prompt is not None else 0))
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
        """Compute a prompt's keys and values once for many rows; None if rows cannot share them or it does not pay.

        Args:
            task_ids: (B,), of the rows that will use them; not needed for a prompt that all rows share.
            rows: number of rows that will use them, if known.
        """
        # Recomputation in the backward pass would write into the cache a second time. Sharded layers are gathered again
        # only for gradients that arrive at their outputs, not at their keys and values.
        if prompt.per_instance or self.checkpointing or (self.sharded and torch.is_grad_enabled()):
            return None
        if self.model.training:  # dropout masks differ by row, over the prompt too
            return None
        if not self.reads_prompts_once:
            return None
        tasks, index = _distinct(prompt, task_ids)
        prompts = 1 if tasks is None else len(tasks)
        if rows is not None and not self._worth_a_pass((rows - prompts) * prompt.length):
            return None
        with self.computing():
            # None: repeated without a copy of its own
            return self._prefix(self._alone(prompt, tasks), index if prompts > 1 else None)

    def _replayed(
        self, prompt: Prompt | None, text: Tensor, mask: Tensor, labels: Tensor, task_ids: Tensor | None
    ) -> Tensor | None:
        """Wanted logits (N, V) float32 from a CUDA graph; None if a pass takes longer to compute than to launch."""
        if self.graphs is None or self.seq2seq or self.model.training or self.checkpointing or self.sharded:
            return None
        positions = text.shape[1] + (0 if prompt is None else prompt.length)
        if len(text) * positions * self._layer_weights > _PRODUCTS_PER_LAYER_PASS:
            return None
        padded = positions + MULTIPLE
        if not self.sees(padded) or (self.positions is not None and padded > self.positions):
            return None
        keep = labels.shape[1]

        def logits(embeds: Tensor, mask: Tensor) -> Tensor:
            with self.computing():
                result: Tensor = self.run(PlacedInput(embeds, mask, mask), keep=keep).logits
            return result[:, -keep:]

        placed = self.place(prompt, text, mask, task_ids, seen=text.shape[1] - keep + 1)
        return _wanted(self.graphs.run(logits, placed.embeds, placed.mask, keep), labels)

    def _packed(
        self, prompt: Prompt, text: Tensor, mask: Tensor, labels: Tensor, task_ids: Tensor | None
    ) -> Tensor | None:
        """Wanted logits (N, V) float32 of rows after their prompts, from packs; None if these save nothing."""
        # Processes that share a sharded model must run the same forwards, and their rows would decide differently.
        if prompt.per_instance or self.model.training or self.sharded or not self.packs_rows:
            return None
        rows, width = text.shape[:2]
        tasks, index = _distinct(prompt, task_ids)
        prompts = 1 if tasks is None else len(tasks)
        wanted = mask.new_ones(rows) if labels.shape[1] == 1 else (labels != IGNORED).sum(dim=1)
        read = mask.new_zeros(rows) if index is None else index
        # This waits for the GPU, once.
        starts, lengths, wanted, read = torch.stack([mask.argmax(dim=1), mask.sum(dim=1), wanted, read]).tolist()
        starts = [row * width + start for row, start in enumerate(starts)]
        packed = PackedRows(starts, lengths, wanted, read, prompt.length)
        if not self.sees(prompt.length + max(packed.lengths)):
            return None
        groups, products = packed.best(self._layer_weights, self.hidden_size)
        if products >= self._unpacked_products(rows, width, prompts, prompt.length):
            return None
        self._check_positions(prompt.length + width)
        return self._packed_logits(self._alone(prompt, tasks), text, Packing.of(packed, groups, prompts, self.device))

    def _packed_logits(self, prompts: Tensor, text: Tensor, packing: Packing) -> Tensor:
        """Wanted logits (N, V) float32 of prompts (G, L, H) and rows (B, S, H)."""
        places = torch.cat([prompts.flatten(0, 1), text.flatten(0, 1)])
        embeds = places.index_select(0, packing.tokens.flatten()).view(*packing.tokens.shape, -1)
        with self.computing():
            logits = self.run_packed(embeds, packing)
        return logits[:, -packing.keep :].flatten(0, 1).index_select(0, packing.answers).float()

    @cached_property
    def packs_rows(self) -> bool:
        """Whether packed rows get the logits of the plain forward; the model is asked, as in `reads_prompts_once`."""
        if self.seq2seq or not self._takes_positions:
            return False
        rows = PackedRows(starts=[0, 5], lengths=[3, 1], wanted=[1, 1], prompts=[0, 0], prompt_length=4)

        def packed(prompt: Tensor, text: Tensor, mask: Tensor) -> Tensor:
            return self._packed_logits(prompt, text, Packing.of(rows, [[0, 1]], 1, self.device))

        return self._agrees_with_plain(packed)

    @cached_property
    def reads_prompts_once(self) -> bool:
        """Whether rows that continue from a prompt's keys and values get the same logits as in the plain forward.

        Tested by running the model on two short rows, because there are many reasons why they may not: bidirectional
        attention, recurrent layers, relative distances that count padding, other kinds of caches. See also `sees`.
        """
        if self.seq2seq:
            return False

        def shared(prompt: Tensor, text: Tensor, mask: Tensor) -> Tensor:
            placed = PlacedInput(text, extended(mask, 4), mask, prefix=self._prefix(prompt))
            return self.run(placed).logits[:, -1]

        return self._agrees_with_plain(shared)

    def _agrees_with_plain(self, logits: Callable[[Tensor, Tensor, Tensor], Tensor]) -> bool:
        """Whether the plain forward gives the same last logits (2, V) of two short rows behind a prompt.

        Args:
            logits: another way to compute them, from the prompt (1, 4, H), the rows (2, 3, H) and their mask (2, 3).
        """
        embedded = self.embedding(torch.arange(10, device=self.device))
        prompt, text = embedded[None, :4], embedded[4:].view(2, 3, -1)
        mask = torch.tensor([[1, 1, 1], [0, 0, 1]], device=self.device)
        rows = torch.cat([prompt.expand(2, -1, -1), text], dim=1)
        with torch.no_grad(), self.computing():
            plain = self.run(PlacedInput(*without_gap(rows, mask, 4), mask)).logits[:, -1]
            try:
                other = logits(prompt, text, mask)
            except Exception:  # each model family raises a different error
                return False
        # A different computation is off by the size of the logits; rounding (TF32, bfloat16) is not.
        inside = torch.bfloat16 if self.precision == "bfloat16" else plain.dtype
        tolerance = max(1e-2, torch.finfo(inside).eps ** 0.5)
        return bool((other - plain).abs().max() <= tolerance * plain.std())

    def _worth_a_pass(self, saved_tokens: int) -> bool:
        if self.device.type == "cpu":
            return saved_tokens > 0
        return saved_tokens * self._layer_weights > _PRODUCTS_PER_LAYER_PASS

    def _unpacked_products(self, rows: int, width: int, prompts: int, length: int) -> float:
        """Multiplications of a layer where rows are not packed."""
        if self.reads_prompts_once and self._worth_a_pass((rows - prompts) * length):
            tokens, pairs = rows * width + prompts * length, rows * width * (length + width)
        else:
            tokens, pairs = rows * (length + width), rows * (length + width) ** 2
        return layer_products(tokens, pairs, self._layer_weights, self.hidden_size)

    @cached_property
    def _layer_weights(self) -> int:
        weights = sum(parameter.numel() for parameter in self.model.parameters()) - self.embedding.weight.numel()
        return weights // self.layers

    def _check_positions(self, positions: int) -> None:
        if self.positions is not None and positions > self.positions:
            raise ValueError(
                f"got {positions} positions of prompt and text, the model has {self.positions}; "
                "want a smaller max_length"
            )

    def _alone(self, prompt: Prompt, tasks: Tensor | None) -> Tensor:
        """The prompts (G, L, H) of some tasks, without text; None: of the only one."""
        prompts = 1 if tasks is None else len(tasks)
        return prompt.prepend(self.embedding.weight.new_empty(prompts, 0, self.hidden_size), tasks)

    def _prefix(self, embeds: Tensor, index: Tensor | None = None) -> Prefix:
        """Run prompts (G, L, H) through the model, see `Prefix`."""
        # Not the model's own kind of cache: sliding-window layers must keep the whole prompt too, because rows after it
        # see different parts of it. Their masks hide the rest.
        cache = DynamicCache()
        self.model(inputs_embeds=embeds, past_key_values=cache, use_cache=True, **self._kept_logits(1))
        return Prefix.of(cache, self.layers, index)

    def _hidden_states(
        self, result: Any, placed: PlacedInput, written: Tensor, which: str, whole: bool
    ) -> tuple[tuple[Tensor, Tensor], ...]:
        """Hidden states with their masks. whole: include the prompt's; written: mask of the decoder inputs."""
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


def _wanted(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (N, V) float32 of the answer tokens, from those of the last positions (B, A, V)."""
    if labels.shape[1] == 1:  # no need to read the labels, which would wait for the GPU
        return logits[:, 0].float()
    return logits[labels != IGNORED].float()


def _distinct(prompt: Prompt, task_ids: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """The tasks (G,) that rows belong to, and the place of each row's (B,); None where all read one prompt."""
    if task_ids is None or prompt.count == 1:
        return (None if task_ids is None else task_ids[:1]), None
    return task_ids.unique(return_inverse=True)  # waits for the GPU
