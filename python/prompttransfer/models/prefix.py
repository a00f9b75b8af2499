"""Prompts read once: their keys and values in every layer, which all rows of a batch attend to.

In a causal model nothing that a prompt token computes depends on the text behind it. So a prompt that many rows share
goes through the model once, as a batch of its own, and the rows continue from its keys and values. This is the same
computation in another order; the gradient of the prompt arrives through its keys and values.
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
        layers: per layer the keys and values, each (G, heads, L, head size).
        index: (B,), the prompt that each row reads; None: all rows read the only one, or each its own.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    index: Tensor | None = None

    @classmethod
    def of(cls, cache: DynamicCache, layers: int, index: Tensor | None = None) -> Prefix:
        """What a model with so many layers wrote into an empty cache.

        Raises:
            ValueError: a layer left nothing there, so it keeps its state in another form.
        """
        states = [(layer.keys, layer.values) for layer in cache.layers]
        if len(states) != layers or any(keys is None or values is None for keys, values in states):
            raise ValueError(f"cache: got {len(states)} layers, want keys and values of {layers}")
        return cls(tuple(states), index)

    @property
    def length(self) -> int:
        """Prompt tokens L."""
        return self.layers[0][0].shape[-2]

    def cache(self, *, grows: bool = False) -> DynamicCache:
        """A cache for any number of batches: it is never written to, unless it `grows` by what one batch reads."""
        cache = DynamicCache()
        kind = _GrowingLayer if grows else _PrefixLayer
        cache.layers = [kind(keys, values, self.index) for keys, values in self.layers]
        return cache


class _PrefixLayer(DynamicLayer):
    """A layer whose new keys and values are put behind the prefix and not kept.

    The prefix is repeated over the rows only while it is being joined with them.
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
    """A layer that keeps the prefix joined with the rows that have read it, and with what they read later."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        self.keys, self.values = super().update(key_states, value_states)
        self._index = None  # every row has its own from now on
        return self.keys, self.values
