"""Passes of a model as CUDA graphs: all kernels of a pass are launched at once.

A small model with a small batch does not keep a GPU busy: launching its kernels one by one takes longer than computing
them. A graph repeats the launches of a pass that was recorded before, for inputs of the same shape.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Any
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor

MULTIPLE = 16  # positions are padded to a multiple of this, so that few shapes occur
MOST = 16  # graphs to keep; passes of other shapes run without one

Pass = Callable[[Tensor, Tensor], Tensor]
Record = Callable[[Pass, tuple[Tensor, Tensor]], Pass]


class CudaGraphs:
    """Graphs of one model's passes, each recorded when its shape occurs for the second time.

    All graphs share their memory. So while a pass still waits for its backward pass, others run without a graph.

    Args:
        record: record(function, sample inputs) returns a function that replays; default: on the current GPU.
    """

    def __init__(self, record: Record | None = None) -> None:
        self._record = record or _recorder()
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._graphs: dict[tuple[Any, ...], Pass] = {}
        self._last: ref[_Replay] | None = None
        self._lock = Lock()  # a replay reads and writes fixed places of memory

    def run(self, function: Pass, embeds: Tensor, mask: Tensor, kind: object = None) -> Tensor:
        """Compute function(embeds, mask), by a graph where there is one.

        Args:
            function: function of rows (B, N, H) and their mask (B, N). Padding on the left must not change the result,
                and nothing in it may wait for the GPU. It is called outside of autocast.
            kind: what else the function depends on; hashable.

        Raises:
            RuntimeError: the model cannot be recorded.
        """
        trains = torch.is_grad_enabled() and embeds.requires_grad
        more = -embeds.shape[1] % MULTIPLE
        shape = (len(embeds), embeds.shape[1] + more, embeds.dtype, trains, kind)
        with self._lock:
            self._seen[shape] += 1
            full = len(self._graphs) == MOST and shape not in self._graphs
            if self._seen[shape] == 1 or full or self._waiting():
                return function(embeds, mask)
            embeds, mask = F.pad(embeds, (0, 0, more, 0)), F.pad(mask, (more, 0))
            graph = self._graph(shape, function, embeds, mask)
            if trains:
                replay = _Replay()
                self._last = ref(replay)
                embeds = _Replayed.apply(embeds, replay)
            return graph(embeds, mask).clone()  # the next replay overwrites what this one returns

    def _waiting(self) -> bool:
        """Whether the last pass may still have a backward pass: it had none, and its autograd graph exists."""
        last = self._last and self._last()
        return last is not None and not last.done

    def _graph(self, shape: tuple[Any, ...], function: Pass, embeds: Tensor, mask: Tensor) -> Pass:
        if shape not in self._graphs:
            sample = embeds.detach().clone().requires_grad_(embeds.requires_grad), mask.clone()
            try:
                self._graphs[shape] = self._record(function, sample)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:  # of the end of the recording, which follows that of the cause
                raise RuntimeError(
                    "the passes of this model cannot be recorded as CUDA graphs; set cuda_graphs: false "
                    f"({error.__context__ or error})"
                ) from error
        return self._graphs[shape]


def _recorder() -> Record:
    pool = torch.cuda.graph_pool_handle()

    def record(function: Pass, samples: tuple[Tensor, Tensor]) -> Pass:
        # A graph is a reference cycle. Freeing one of another model here would spoil the recording.
        collects = gc.isenabled()
        gc.disable()
        try:
            # The function sets its own precision. Backward passes are computed outside of it, and recorded so.
            with torch.autocast("cuda", enabled=False, cache_enabled=False):
                graph: Pass = torch.cuda.make_graphed_callables(
                    function,
                    samples,
                    num_warmup_iters=1,  # the shape has occurred before
                    allow_unused_input=True,
                    pool=pool,
                )
        finally:
            if collects:
                gc.enable()
        return graph

    return record


class _Replay:
    """A pass with gradients that a graph has replayed."""

    done = False  # whether its backward pass has run


class _Replayed(torch.autograd.Function):
    """Identity of a graph's input, whose backward pass is the last step of the graph's."""

    @staticmethod
    def forward(ctx: Any, embeds: Tensor, replay: _Replay) -> Tensor:
        ctx.replay = replay
        return embeds.view_as(embeds)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.replay.done:
            raise RuntimeError("a pass replayed by a CUDA graph has one backward pass; set cuda_graphs: false")
        gradient = gradient.clone()  # the next replay overwrites it
        ctx.replay.done = True
        return gradient, None
