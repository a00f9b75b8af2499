"""Low-rank Hadamard prompts of MPT: composed per batch row, and written straight in front of the input embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from promptkernels.backends.types import accumulation_type
from promptkernels.ops.checks import Sizes
from promptkernels.ops.derivatives import needs_gradient, once, record, wanted
from promptkernels.ops.library import register


def _fake_compose(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
    return shared.new_empty((task_ids.shape[0], *shared.shape), dtype=accumulation_type(shared, u, v))


def _fake_backward(grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> tuple[Tensor, ...]:
    acc = accumulation_type(shared, u, v)
    return tuple(shared.new_empty(t.shape, dtype=acc) for t in (shared, u, v))


def _fake_prepend(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
    rows, text, hidden = input_embeds.shape
    return input_embeds.new_empty((rows, shared.shape[0] + text, hidden))


_compose = register("compose_prompts", "(Tensor shared, Tensor u, Tensor v, Tensor task_ids) -> Tensor", _fake_compose)
_compose_backward = register(
    "compose_prompts_backward",
    "(Tensor grad, Tensor shared, Tensor u, Tensor v, Tensor task_ids) -> (Tensor d_shared, Tensor d_u, Tensor d_v)",
    _fake_backward,
)
_prepend = register(
    "prepend_prompts",
    "(Tensor shared, Tensor u, Tensor v, Tensor task_ids, Tensor input_embeds) -> Tensor",
    _fake_prepend,
)


def _check(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor | None = None) -> None:
    sizes = Sizes()
    sizes.floating("shared", shared, "LH")
    sizes.floating("u", u, "TLR")
    sizes.floating("v", v, "TRH")
    sizes.indices("task_ids", task_ids, "B")
    if input_embeds is not None:
        sizes.floating("input_embeds", input_embeds, "BSH", may_be_empty="BS")


def compose_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
    """The prompt of every batch row: ``shared * (u[task_ids] @ v[task_ids])`` (MPT, ICLR 2023, eq. 2, any rank).

    Args:
        shared: (L, H), the prompt P* that all tasks share.
        u: (T, L, R), left factors of the tasks.
        v: (T, R, H), right factors.
        task_ids: (B,) int32 or int64, the task of each batch row.

    Returns:
        (B, L, H); float32, or float64 when an argument is float64. Differentiable once in shared, u and v.

    Raises:
        ValueError: an argument of a wrong rank, size, type or device.
        IndexError: a task id outside 0..T-1 (on a GPU a device-side assertion, as in torch's own indexing).
    """
    _check(shared, u, v, task_ids)
    if needs_gradient("compose_prompts", shared, u, v):
        return _ComposePrompts.apply(shared, u, v, task_ids)
    return _compose(shared, u, v, task_ids)


def prepend_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
    """The model input ``[compose_prompts(...); input_embeds]``, written in one pass over memory.

    Args:
        shared, u, v, task_ids: as in `compose_prompts`.
        input_embeds: (B, S, H), the embeddings of the text.

    Returns:
        (B, L+S, H) in the type of ``input_embeds``, the prompt first. Differentiable once in shared, u, v and
        input_embeds.

    Raises:
        ValueError: an argument of a wrong rank, size, type or device.
        IndexError: a task id outside 0..T-1.
    """
    _check(shared, u, v, task_ids, input_embeds)
    if needs_gradient("prepend_prompts", shared, u, v, input_embeds):
        return _PrependPrompts.apply(shared, u, v, task_ids, input_embeds)
    return _prepend(shared, u, v, task_ids, input_embeds)


def _factor_gradients(name: str, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs, saved = ctx.needs_input_grad[:3], ctx.saved_tensors
    if not any(needs):
        return None, None, None
    d_shared, d_u, d_v = wanted(ctx, needs, _compose_backward, grad, *saved)
    shared, u, v, _ = saved
    return once(name, d_shared, grad, u, v), once(name, d_u, grad, shared, v), once(name, d_v, grad, shared, u)


class _ComposePrompts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
        record(ctx, shared, u, v, task_ids)
        return _compose(shared, u, v, task_ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*_factor_gradients("compose_prompts", ctx, grad), None)


class _PrependPrompts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
        record(ctx, shared, u, v, task_ids)
        return _prepend(shared, u, v, task_ids, input_embeds)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        length = ctx.saved_tensors[0].shape[0]
        d_factors = _factor_gradients("prepend_prompts", ctx, grad[:, :length])
        return (*d_factors, None, grad[:, length:] if ctx.needs_input_grad[4] else None)
