"""The common start P_init of all task prompts, and task vectors relative to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from prompttransfer.models import Backbone

_VOCABULARY = 5000  # the first ids are the frequent tokens (ATTEMPT's and DTVG's choice)


def initial_prompt(
    backbone: Backbone, length: int, kind: str = "vocabulary", *, seed: int = 42, text: str = ""
) -> Tensor:
    """P_init (L, H) float32 on the CPU.

    "vocabulary": embedding rows of the first L entries of a random permutation of the first 5,000 ids, those without a
    row that is all zero (padding often is), from which no normalisation recovers; "text": the embeddings of a text,
    repeated to L tokens; "uniform": U(-0.5, 0.5).
    """
    table = backbone.embedding.weight.detach()
    generator = torch.Generator().manual_seed(seed)
    if kind == "vocabulary":
        ids = torch.randperm(min(_VOCABULARY, table.shape[0]), generator=generator)
        ids = ids[table[ids.to(table.device)].any(dim=1).cpu()]
        if length > len(ids):
            raise ValueError(f"prompt length {length} exceeds the {len(ids)} vocabulary rows it would start from")
        ids = ids[:length]
    elif kind == "text":
        tokens = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not tokens:
            raise ValueError(f"init text {text!r} has no tokens")
        ids = torch.tensor((tokens * (length // len(tokens) + 1))[:length])
    elif kind == "uniform":
        return torch.rand(length, table.shape[1], generator=generator) - 0.5
    else:
        raise ValueError(f"prompt init: got {kind!r}, want vocabulary, text or uniform")
    return table[ids.to(table.device)].float().cpu().clone()


def init_hash(start: Tensor) -> str:
    """Content hash of a start prompt; task vectors with different hashes do not belong together."""
    content = start.detach().cpu().float().contiguous()
    return hashlib.sha256(repr(tuple(content.shape)).encode() + content.numpy().tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class TaskVector:
    """T = P - P_init of one task (L, H), with the hash of its P_init."""

    name: str
    prompt: Tensor
    init_hash: str

    def minus(self, start: Tensor) -> Tensor:
        """P - P_init.

        Raises:
            ValueError: the prompt was trained from another start.
        """
        check_same_start(start, [self])
        return self.prompt - start


def check_same_start(start: Tensor, vectors: list[TaskVector]) -> None:
    """Refuse prompts that were not trained from `start`: their differences to it would mean nothing."""
    expected = init_hash(start)
    for vector in vectors:
        if vector.init_hash != expected:
            raise ValueError(
                f"prompt of task {vector.name!r} started from P_init {vector.init_hash}, but {expected} is subtracted; "
                "task vectors need one common start (same model, prompt length, init and seed)"
            )
        if vector.prompt.shape != start.shape:
            raise ValueError(
                f"prompt of task {vector.name!r}: got shape {tuple(vector.prompt.shape)}, want {tuple(start.shape)}"
            )
