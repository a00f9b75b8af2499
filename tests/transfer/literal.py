"""Literal forward of a model, row by row: no batch, no padding, no mask, no cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from prompttransfer.models import Backbone
from prompttransfer.prompts import PromptModule


def literal_logits(
    backbone: Backbone, prompt: PromptModule | None, rows: Sequence[Sequence[int]], task_ids: Tensor | None = None
) -> Tensor:
    """Logits (B, V) at the last position, or at the first of a decoder."""
    task_ids = torch.zeros(len(rows), dtype=torch.int64) if task_ids is None else task_ids
    logits = []
    for row, task in zip(rows, task_ids, strict=True):
        embeds = backbone.embedding(torch.tensor([row]))
        if prompt is not None:
            embeds = prompt.prepend(embeds, task[None])
        options = {"use_cache": False}
        if backbone.seq2seq:
            options["decoder_input_ids"] = torch.tensor([[backbone.model.config.decoder_start_token_id]])
        logits.append(backbone.model(inputs_embeds=embeds, **options).logits[0, -1])
    return torch.stack(logits)


def literal_answer_logits(
    backbone: Backbone, prompt: PromptModule | None, row: Sequence[int], answer: Sequence[int], task: int = 0
) -> Tensor:
    """Logits (A, V) for the tokens of an answer, each given the earlier ones."""
    embeds = backbone.embedding(torch.tensor([row]))
    if prompt is not None:
        embeds = prompt.prepend(embeds, torch.tensor([task]))
    if backbone.seq2seq:
        written = torch.tensor([[backbone.model.config.decoder_start_token_id, *answer[:-1]]])
        return backbone.model(inputs_embeds=embeds, decoder_input_ids=written).logits[0]
    embeds = torch.cat([embeds, backbone.embedding(torch.tensor([answer[:-1]], dtype=torch.int64))], dim=1)
    return backbone.model(inputs_embeds=embeds, use_cache=False).logits[0, -len(answer) :]


def literal_text(backbone: Backbone, prompt: PromptModule | None, row: Sequence[int], tokens: int) -> str:
    """The likeliest token again and again, each from the start."""
    answer: list[int] = []
    while len(answer) < tokens:
        with torch.no_grad():
            token = int(literal_answer_logits(backbone, prompt, row, [*answer, 0])[-1].argmax())
        if token == backbone.tokenizer.eos_token_id:
            break
        answer.append(token)
    text: str = backbone.tokenizer.decode(answer, skip_special_tokens=True)
    return text.strip()


def positions_read(backbone: Backbone, run: Callable[[], object]) -> int:
    """Positions, of all rows together, that pass through the first block of the model during a call."""
    block = next(module for module in backbone.model.modules() if isinstance(module, nn.ModuleList))[0]
    seen = []
    handle = block.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append((args[0] if args else kwargs["hidden_states"]).shape[:2]), with_kwargs=True
    )
    try:
        run()
    finally:
        handle.remove()
    return sum(rows * length for rows, length in seen)
