"""Answer rows with a prompted model: score candidate answers, or generate text.

Rows of similar length share a batch, to save padding. Padded positions are masked, so the order of the rows has no
effect. Shared input is read once: the prompt for all rows (`Backbone.read`), the text for all its candidate answers.
With several processes, each reads a part of the batches, and all get every answer.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationConfig

from prompttransfer.distributed import processes
from prompttransfer.models import IGNORED, Backbone, Batch, PlacedInput, quiet_transformers
from prompttransfer.models.prefix import Prefix
from prompttransfer.prompts import FrozenPrompts, PromptModule

Tokens = Sequence[Sequence[int]]
Advance = Callable[[int], None] | None

# Largest number of positions whose logits are held at once when scoring whole answers.
_POSITIONS = 2048


@dataclass
class Reader:
    """A backbone with one prompt that reads many rows.

    Args:
        prompt: (L, H), a module whose prompt depends on the row, or None for the model alone (zero-shot).
        advance: called with the number of rows just finished.
    """

    backbone: Backbone
    prompt: Tensor | PromptModule | None
    batch_size: int = 32
    advance: Advance = None

    def __post_init__(self) -> None:
        module = FrozenPrompts(self.prompt[None]) if isinstance(self.prompt, Tensor) else self.prompt
        if module is not None:
            if module.hidden_size != self.backbone.hidden_size:
                raise ValueError(f"prompt: got width {module.hidden_size}, the model wants {self.backbone.hidden_size}")
            module.to(self.backbone.device)
        self.module = module

    @torch.no_grad()
    def first_token_scores(self, rows: Tokens, answers: Sequence[int]) -> Tensor:
        """Logits (rows, C) of the first tokens of C answers."""
        columns = torch.tensor(answers, device=self.backbone.device)
        scores = torch.zeros(len(rows), len(answers))
        prefix = self._prefix()
        for chosen, batch in self._batches(rows):
            scores[chosen] = self.backbone(self.module, batch, prefix=prefix).logits[:, columns].cpu()
        return self.backbone.joined(scores)

    @torch.no_grad()
    def answer_scores(self, rows: Tokens, answers: Tokens) -> Tensor:
        """Mean log-probability (rows, C) of the tokens of each of C answers."""
        scores = torch.zeros(len(rows), len(answers))
        prefix = self._prefix()
        for chosen, batch in self._batches(rows):
            scores[chosen] = self._answer_scores(batch, answers, prefix).cpu()
        return self.backbone.joined(scores)

    @torch.no_grad()
    def write(self, rows: Tokens, max_tokens: int) -> list[str]:
        """Text that the model generates greedily after each row, at most max_tokens tokens."""
        texts = [""] * len(rows)
        prefix = self._prefix()
        for chosen, batch in self._batches(rows):
            written = self._written(batch, max_tokens + 1, prefix)  # one more for the end token
            decoded = self.backbone.tokenizer.batch_decode(written, skip_special_tokens=True)
            for place, text in zip(chosen, decoded, strict=True):
                texts[place] = text.strip()
        return ["".join(parts) for parts in zip(*self.backbone.collected(texts), strict=True)]

    def _prefix(self) -> Prefix | None:
        # One reading serves all batches, so each batch saves the prompt of all its rows.
        return None if self.module is None else self.backbone.read(self.module, rows=self.batch_size + 1)

    def _batches(self, rows: Tokens) -> Iterator[tuple[list[int], Batch]]:
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        mine = self.backbone.share(range(0, len(order), self.batch_size))
        at_once = self.batch_size if self.backbone.sharded else self.batch_size * processes.count()
        for first in mine:
            chosen = order[first : first + self.batch_size]
            batch = self.backbone.collate([rows[index] for index in chosen])
            yield chosen, {name: tensor.to(self.backbone.device) for name, tensor in batch.items()}
            if self.advance:
                self.advance(len(order[first : first + at_once]))

    def _answer_scores(self, batch: Batch, answers: Tokens, prefix: Prefix | None) -> Tensor:
        """Scores (B, C) of whole answers for one batch."""
        rows, length = batch["input_ids"].shape
        labels = self.backbone.collate([[]] * len(answers), answers)["labels"].to(self.backbone.device)
        if prefix is not None and not self.backbone.sees(prefix.length + length + labels.shape[1] - 1):
            prefix = None
        read = self._text_once(batch, prefix)
        scores = []
        # All rows, with some of the answers at a time.
        step = max(1, _POSITIONS // (rows * labels.shape[1]))
        for part in labels.split(step):
            index = torch.arange(rows, device=part.device).repeat_interleave(len(part))
            wanted = part.repeat(rows, 1)
            logits = read(index, wanted) if read else self._again(batch, index, wanted)
            losses = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORED, reduction="none")
            mean = losses.view_as(wanted).sum(dim=1) / (wanted != IGNORED).sum(dim=1)
            scores.append(-mean.view(rows, len(part)))
        return torch.cat(scores, dim=1)

    def _text_once(self, batch: Batch, prefix: Prefix | None) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Read the texts once; return a function for the logits (N, A, V) of answers after them.

        The function takes the index of each answer's text (N,) and the answers' tokens (N, A). None if the model cannot
        continue from texts it has read.
        """
        backbone = self.backbone
        placed = backbone.place(
            self.module, backbone.embedding(batch["input_ids"]), batch["attention_mask"], prefix=prefix
        )
        if backbone.seq2seq:
            with backbone.computing():
                state = backbone.encoder(placed)

            def after(index: Tensor, wanted: Tensor) -> Tensor:
                return backbone.decode(state[index], placed.select(index), wanted[:, :-1].clamp(min=0)).float()

            return after
        if not backbone.reads_prompts_once:
            return None
        cache = prefix.cache(grows=True) if prefix is not None else DynamicCache()
        with backbone.computing():
            first = backbone.run(placed, cache=cache).logits[:, -1:].float()
        read = Prefix.of(cache, backbone.layers)

        def after(index: Tensor, wanted: Tensor) -> Tensor:
            if wanted.shape[1] == 1:
                return first[index]
            written = backbone.embedding(wanted[:, :-1].clamp(min=0))
            mask = (wanted[:, 1:] != IGNORED).to(placed.mask.dtype)
            rows = PlacedInput(
                written,
                torch.cat([placed.mask[index], mask], dim=1),
                mask,
                prefix=Prefix(read.layers, index),
            )
            with backbone.computing():
                later = backbone.run(rows, keep=written.shape[1]).logits[:, -written.shape[1] :]
            return torch.cat([first[index], later.float()], dim=1)

        return after

    def _again(self, batch: Batch, index: Tensor, wanted: Tensor) -> Tensor:
        """The same logits, reading the text again for every answer."""
        repeated = {name: tensor[index] for name, tensor in batch.items()}
        flat = self.backbone(self.module, repeated | {"labels": wanted}).logits
        logits = flat.new_zeros(*wanted.shape, flat.shape[-1])
        logits[wanted != IGNORED] = flat
        return logits

    def _written(self, batch: Batch, max_tokens: int, prefix: Prefix | None) -> Tensor:
        """Generated token ids (B, at most max_tokens), including an end token."""
        backbone = self.backbone
        rows, length = batch["input_ids"].shape
        if prefix is not None and not backbone.sees(prefix.length + length + max_tokens):
            prefix = None
        placed = backbone.place(
            self.module, backbone.embedding(batch["input_ids"]), batch["attention_mask"], prefix=prefix
        )
        own = backbone.model.generation_config
        model_ends = own.eos_token_id if isinstance(own.eos_token_id, list) else [own.eos_token_id]
        ends = sorted({backbone.tokenizer.eos_token_id, *model_ends} - {None})
        # The copy of the model that `generate` gets below would lose the shared state of a sharded model.
        by_hand = prefix is not None or placed.decoder is not None or backbone.sharded
        if by_hand or not _generates_from_embeddings(backbone):
            read = self._behind_a_prefix(placed) if prefix is not None else self._behind_the_start(placed)
            return self._written_by_hand(rows, max_tokens, ends, read)
        settings = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            num_beams=1,
            eos_token_id=ends or None,
            pad_token_id=backbone.pad,
            decoder_start_token_id=int(backbone.decoder_lead[0, 0]) if backbone.seq2seq else None,
        )
        # A copy that shares all layers. `generate` would take settings not named here (minimum length, penalties) from
        # the model itself, and other threads may be using that.
        model = copy.copy(backbone.model)
        model.generation_config = settings
        lead = {}
        if backbone.seq2seq:
            lead["decoder_input_ids"] = backbone.decoder_lead.to(backbone.device).repeat(rows, 1)
        with quiet_transformers(), backbone.computing():
            written = model.generate(
                inputs_embeds=placed.embeds, attention_mask=placed.mask, generation_config=settings, **lead
            )
        return written[:, lead["decoder_input_ids"].shape[1] :] if lead else written

    def _written_by_hand(self, rows: int, max_tokens: int, ends: list[int], read: Callable[[Tensor], Tensor]) -> Tensor:
        """Greedy generation where `generate` does not work: after a prefix, with a decoder prompt, for some families.

        Args:
            read: maps the tokens so far (B, n) to logits (B, n, V), the last of which predict the next token. Called
                once per token.
        """
        written = torch.empty(rows, 0, dtype=torch.int64, device=self.backbone.device)
        ended = torch.zeros(rows, dtype=torch.bool, device=written.device)
        for _ in range(max_tokens):
            token = read(written)[:, -1].argmax(dim=-1).masked_fill(ended, self.backbone.pad)
            written = torch.cat([written, token[:, None]], dim=1)
            ended |= torch.isin(token, torch.tensor(ends, device=token.device))
            if ended.all():
                break
        return written

    def _behind_a_prefix(self, placed: PlacedInput) -> Callable[[Tensor], Tensor]:
        """Reader for `_written_by_hand` that reads the placed rows once, then only the last token."""
        backbone, prefix = self.backbone, placed.prefix
        assert prefix is not None
        cache = prefix.cache(grows=True)

        def read(written: Tensor) -> Tensor:
            if not written.shape[1]:
                step = placed
            else:
                mask = torch.cat([placed.mask, torch.ones_like(written)], dim=1)
                step = PlacedInput(backbone.embedding(written[:, -1:]), mask, mask[:, -1:])
            with backbone.computing():
                logits: Tensor = backbone.run(step, cache=cache).logits
            return logits

        return read

    def _behind_the_start(self, placed: PlacedInput) -> Callable[[Tensor], Tensor]:
        """Reader for `_written_by_hand` that rereads all tokens: by a decoder, or after the placed rows."""
        backbone = self.backbone
        with backbone.computing():
            state = backbone.encoder(placed) if backbone.seq2seq else None

        def read(written: Tensor) -> Tensor:
            if state is not None:
                return backbone.decode(state, placed, written)
            embeds = torch.cat([placed.embeds, backbone.embedding(written)], dim=1)
            mask = torch.cat([placed.mask, torch.ones_like(written)], dim=1)
            with backbone.computing():
                logits: Tensor = backbone.run(PlacedInput(embeds, mask, mask)).logits
            return logits

        return read


def _generates_from_embeddings(backbone: Backbone) -> bool:
    """Whether `generate` accepts embeddings, by the same check as in transformers."""
    parameters = inspect.signature(backbone.model.prepare_inputs_for_generation).parameters
    return backbone.seq2seq or "inputs_embeds" in parameters
