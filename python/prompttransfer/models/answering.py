"""How a model with a prompt answers rows: the scores of given answers, or text that it writes.

Rows of like length share a batch, which costs little padding; padded positions are masked, so their order has no
effect. What rows share is read once: the prompt by all rows (`Backbone.read`), the text by all answers. Several
processes read a part of the batches each, and all of them get all answers.
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

# Logits of so many positions at most are held at once when whole answers are scored.
_POSITIONS = 2048


@dataclass
class Reader:
    """A backbone with one prompt that reads many rows.

    Args:
        prompt: (L, H); a module whose prompt depends on the row; or None for the model alone (zero-shot).
        advance: told how many rows are done.
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
        """Logits (rows, C) of the C tokens that answers start with."""
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
        """What the model writes after each row, token by token the likeliest one, at most so many."""
        texts = [""] * len(rows)
        prefix = self._prefix()
        for chosen, batch in self._batches(rows):
            written = self._written(batch, max_tokens + 1, prefix)  # the end token is one of them
            decoded = self.backbone.tokenizer.batch_decode(written, skip_special_tokens=True)
            for place, text in zip(chosen, decoded, strict=True):
                texts[place] = text.strip()
        return ["".join(parts) for parts in zip(*self.backbone.collected(texts), strict=True)]

    def _prefix(self) -> Prefix | None:
        return None if self.module is None else self.backbone.read(self.module)

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
        # All rows with some of the answers at a time.
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
        """Logits (N, A, V) of answers behind texts that have been read already; None where the model cannot do it.

        The function takes which text each answer follows (N,), and the answers' tokens (N, A).
        """
        backbone = self.backbone
        placed = backbone.place(
            self.module, backbone.embedding(batch["input_ids"]), batch["attention_mask"], prefix=prefix
        )
        if backbone.seq2seq:
            with backbone.autocast():
                state = backbone.encoder(placed)

            def behind(index: Tensor, wanted: Tensor) -> Tensor:
                return backbone.decode(state[index], placed.select(index), wanted[:, :-1].clamp(min=0)).float()

            return behind
        if not backbone.reads_prompts_once:
            return None
        cache = prefix.cache(grows=True) if prefix is not None else DynamicCache()
        with backbone.autocast():
            first = backbone.run(placed, cache=cache).logits[:, -1:].float()
        read = Prefix.of(cache, backbone.layers)

        def behind(index: Tensor, wanted: Tensor) -> Tensor:
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
            with backbone.autocast():
                later = backbone.run(rows, keep=written.shape[1]).logits[:, -written.shape[1] :]
            return torch.cat([first[index], later.float()], dim=1)

        return behind

    def _again(self, batch: Batch, index: Tensor, wanted: Tensor) -> Tensor:
        """The same with the whole text read again for every answer."""
        repeated = {name: tensor[index] for name, tensor in batch.items()}
        flat = self.backbone(self.module, repeated | {"labels": wanted}).logits
        logits = flat.new_zeros(*wanted.shape, flat.shape[-1])
        logits[wanted != IGNORED] = flat
        return logits

    def _written(self, batch: Batch, max_tokens: int, prefix: Prefix | None) -> Tensor:
        """Token ids (B, at most max_tokens) that the model writes, an end token among them."""
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
        # A copy of a model that is spread over processes, as `generate` gets below, would lose their common state.
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
        # A copy that shares all layers: the model's own settings (least lengths, penalties) would fill those not named
        # here, and other threads may be reading with the model itself.
        model = copy.copy(backbone.model)
        model.generation_config = settings
        lead = {}
        if backbone.seq2seq:
            lead["decoder_input_ids"] = backbone.decoder_lead.to(backbone.device).repeat(rows, 1)
        with quiet_transformers(), backbone.autocast():
            written = model.generate(
                inputs_embeds=placed.embeds, attention_mask=placed.mask, generation_config=settings, **lead
            )
        return written[:, lead["decoder_input_ids"].shape[1] :] if lead else written

    def _written_by_hand(self, rows: int, max_tokens: int, ends: list[int], read: Callable[[Tensor], Tensor]) -> Tensor:
        """The same where `generate` cannot: behind a prefix, of embeddings before a decoder's input, some families.

        Args:
            read: logits (B, n, V), the last ones after what is written so far (B, n); asked for every token in turn.
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
        """Placed rows are read at the first call, of what is written only the last token."""
        backbone, prefix = self.backbone, placed.prefix
        assert prefix is not None
        cache = prefix.cache(grows=True)

        def read(written: Tensor) -> Tensor:
            if not written.shape[1]:
                step = placed
            else:
                mask = torch.cat([placed.mask, torch.ones_like(written)], dim=1)
                step = PlacedInput(backbone.embedding(written[:, -1:]), mask, mask[:, -1:])
            with backbone.autocast():
                logits: Tensor = backbone.run(step, cache=cache).logits
            return logits

        return read

    def _behind_the_start(self, placed: PlacedInput) -> Callable[[Tensor], Tensor]:
        """All that is written is read again for every token: by a decoder, or with the placed rows before it."""
        backbone = self.backbone
        with backbone.autocast():
            state = backbone.encoder(placed) if backbone.seq2seq else None

        def read(written: Tensor) -> Tensor:
            if state is not None:
                return backbone.decode(state, placed, written)
            embeds = torch.cat([placed.embeds, backbone.embedding(written)], dim=1)
            mask = torch.cat([placed.mask, torch.ones_like(written)], dim=1)
            with backbone.autocast():
                logits: Tensor = backbone.run(PlacedInput(embeds, mask, mask)).logits
            return logits

        return read


def _generates_from_embeddings(backbone: Backbone) -> bool:
    """Whether `generate` takes embeddings, asked as transformers asks it."""
    taken = inspect.signature(backbone.model.prepare_inputs_for_generation).parameters
    return backbone.seq2seq or "inputs_embeds" in taken
