"""Shared by the tests of several methods: a silent progress, one batch, and a small run's context."""

from __future__ import annotations

from pathlib import Path

import torch

from prompttransfer import RunConfig
from prompttransfer.files.store import Store
from prompttransfer.methods import Context
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.prompts import initial_prompt
from prompttransfer.tasks.task import Task


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    batch = backbone.collate([[10, 11, 12], [13], [14, 15]])
    return batch | {"labels": torch.tensor([[4], [5], [4]]), "task_ids": torch.tensor([0, 1, 0])}


class Silent:
    """The progress interface, without output; remembers what was reused."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def stage(self, title: str, total: int) -> Silent:
        return self

    def advance(self, n: int = 1, **figures: float) -> None: ...

    def close(self) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


def context(backbone: Backbone, tasks: dict[str, Task], folder: Path, **settings) -> tuple[Context, EncodedTask]:
    small = {
        "sources": ("red", "green", "blue"),
        "targets": ("goal",),
        "transfer_from": "all",
        "prompt_length": 3,
        "train_rows": 16,
        "source_updates": 4,
        "target_updates": 6,
        "batch_size": 4,
        "source_batch_size": 6,
    }
    config = RunConfig(**small | settings)
    sources = [EncodedTask.of(tasks[name], backbone, config.scoring) for name in config.sources]
    start = initial_prompt(backbone, 3)
    ctx = Context(backbone, config, Store(folder), Silent(), sources, start, seed=1, source_seed=1)
    return ctx, EncodedTask.of(tasks["goal"], backbone, config.scoring)
