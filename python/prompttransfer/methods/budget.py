"""Number of updates of every stage, from settings in updates or epochs, for a given number of rows.

Epochs are counted in rows: E epochs over N rows in batches of B are ceil(E N / B) updates. On a mixture of sources,
whose batches are drawn at random, an epoch is floor(N / B) batches, as in MPT's sampler. `max_updates` limits a stage.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from prompttransfer.settings.run import RunConfig


class JointBudget(Protocol):
    """Settings of a stage on all sources together."""

    source_updates: int | None
    source_epochs: float | None


class TargetBudget(NamedTuple):
    """Updates on target rows.

    Attributes:
        own: updates that a method adds to the run's settings (`Method.own_budget`). Every method gets as many.
        transfer: the other updates.
        own_rows: rows per update of `own`.
    """

    own: int
    transfer: int
    own_rows: int

    @property
    def total(self) -> int:
        """Updates that every method spends on the target."""
        return self.own + self.transfer


def source_updates(config: RunConfig, rows: int) -> int:
    """Updates of prompt tuning on one source with this many training rows."""
    return _capped(
        config, updates_of_epochs(config.source_epochs, rows, config.source_batch_size) or config.source_updates
    )


def joint_updates(config: RunConfig, block: JointBudget, rows: int, batch_size: int | None = None) -> int:
    """Updates of a stage on all sources together, with this many training rows in total.

    The block's settings override the run's, and epochs override updates.

    Args:
        batch_size: rows per update; None: source_batch_size.
    """
    size = batch_size or config.source_batch_size
    updates = (
        _drawn(block.source_epochs, rows, size)
        or block.source_updates
        or _drawn(config.source_epochs, rows, size)
        or config.source_updates
    )
    return _capped(config, updates)


def target_budget(config: RunConfig, rows: int) -> TargetBudget:
    """The budget of every method on a target with this many rows. `config` is the target's own (`for_task`)."""
    epochs = config.target_epochs
    if isinstance(epochs, dict):
        reached = [least for least in epochs if least <= rows]
        if not reached:
            raise ValueError(f"target_epochs names no epochs for {rows} training rows, only from {min(epochs)} rows on")
        epochs = epochs[max(reached)]
    transfer = updates_of_epochs(epochs, rows, config.batch_size) or config.target_updates
    asked = (method.own_budget(config, rows) for method in config.known.values())
    own, own_rows = max(asked, key=lambda updates_and_rows: updates_and_rows[0])
    return TargetBudget(_capped(config, own), _capped(config, transfer), own_rows)


def warmup_updates(config: RunConfig, updates: int) -> int:
    """Warm-up updates of a stage with this many updates. A `warmup_updates` setting may exceed the stage."""
    return math.ceil(config.warmup * updates) if config.warmup_updates is None else config.warmup_updates


def updates_of_epochs(epochs: float | None, rows: int, batch_size: int) -> int | None:
    """Updates in this many epochs; None if `epochs` is None."""
    return None if epochs is None else max(1, math.ceil(epochs * rows / batch_size))


def _drawn(epochs: float | None, rows: int, batch_size: int) -> int | None:
    return None if epochs is None else max(1, math.floor(epochs * (rows // batch_size)))


def _capped(config: RunConfig, updates: int) -> int:
    return updates if config.max_updates is None else min(updates, config.max_updates)
