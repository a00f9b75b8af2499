"""Prompts read once: their keys and values in every layer, shared by the rows of a batch.

In a causal model, a prompt token does not depend on the text after it. So a prompt shared by many rows goes through
the model once, as its own batch, and the rows continue from its keys and values. This is the same computation in
another order; the prompt gets its gradient through the keys and values.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


@dataclass(frozen=True)
class Prefix:
    """Keys and values of G prompts.

    Args:
        layers: keys and values of each layer, both (G, heads, L, head size).
        index: (B,), prompt of each row. None: all rows share a single prompt, or row b reads prompt b.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    index: Tensor | None = None

    @classmethod
    def of(cls, cache: DynamicCache, layers: int, index: Tensor | None = None) -> Prefix:
        """Take the keys and values that a model with this many layers wrote into an empty cache."""
        states = [(layer.keys, layer.values) for layer in cache.layers]
        if len(states) != layers or any(keys is None or values is None for keys, values in states):
            raise ValueError(f"cache: got {len(states)} layers, want keys and values of {layers}")
        return cls(tuple(states), index)

    @property
    def length(self) -> int:
        """Prompt tokens L."""
        return self.layers[0][0].shape[-2]

    def cache(self, *, grows: bool = False) -> DynamicCache:
        """A read-only cache for any number of batches; with `grows`, a cache that one batch extends."""
        cache = DynamicCache()
        kind = _GrowingLayer if grows else _PrefixLayer
        cache.layers = [kind(keys, values, self.index) for keys, values in self.layers]
        return cache


class _PrefixLayer(DynamicLayer):
    """A cache layer that appends new keys and values to the prefix without keeping them.

    The prefix is expanded to the rows only while it is concatenated with them.
    """

    def __init__(self, keys: Tensor, values: Tensor, index: Tensor | None) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._index = index

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        return self._joined(self.keys, key_states), self._joined(self.values, value_states)

    def _joined(self, prefix: Tensor, rows: Tensor) -> Tensor:
        if self._index is None:
            prefix = prefix.expand(rows.shape[0], -1, -1, -1)
        else:
            prefix = prefix.index_select(0, self._index)
        return torch.cat([prefix, rows], dim=-2)


class _GrowingLayer(_PrefixLayer):
    """A cache layer that keeps the prefix concatenated with everything its rows have read so far."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.keys, self.values = super().update(key_states, value_states)
        self._index = None  # every row has its own copy from now on
        return self.keys, self.values
