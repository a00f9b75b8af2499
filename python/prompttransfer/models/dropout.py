"""Dropout inside the frozen model while a prompt trains, as in the published training loops.

The masks of an update depend on its seeds alone. A resumed run draws the same masks, and they do not change the state
of any other random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from prompttransfer.distributed import processes


def has_dropout(model: nn.Module) -> bool:
    """Whether a transformers model uses dropout in training mode, in its modules or by its configuration."""
    if any(isinstance(module, _DropoutNd) and module.p > 0 for module in model.modules()):
        return True
    settings = model.config.get_text_config().to_dict().items()
    return any("drop" in name and isinstance(value, float) and value > 0 for name, value in settings)


@contextmanager
def dropping(model: nn.Module, device: torch.device, seeds: Sequence[int]) -> Iterator[None]:
    """Put a model into training mode for a forward and its backward.

    Args:
        seeds: seeds of the masks, such as the stage's and the update's. Each process of a run draws its own masks.
    """
    seed = np.random.SeedSequence([*seeds, processes.rank()]).generate_state(1, np.uint64)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(seed[0] >> 1))
        model.train()
        try:
            yield
        finally:
            model.eval()
