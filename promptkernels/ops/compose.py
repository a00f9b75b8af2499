"""Low-rank Hadamard prompts of MPT: composed per batch row, or written directly before the input embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from promptkernels.backends.native import CODES, Native, address, allocate, typed
from promptkernels.backends.types import accumulation_type
from promptkernels.ops import arguments
from promptkernels.ops.checks import Sizes
from promptkernels.ops.derivatives import needs_gradient, once, record, recording, transformable, wanted
from promptkernels.ops.table import Operation


def _fits(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> None:
    length, hidden = arguments.sizes("shared", shared, "LH")
    tasks, u_length, rank = arguments.sizes("u", u, "TLR")
    device, wide = shared.get_device(), task_ids.dtype
    if u_length != length or u.get_device() != device:
        arguments.fits("u", u, (tasks, length, rank), device)
    arguments.fits("v", v, (tasks, rank, hidden), device)
    if wide is not torch.int64 and wide is not torch.int32:
        raise ValueError(f"task_ids must be int32 or int64, got {wide}")
    if task_ids.dim() != 1 or task_ids.get_device() != device:
        raise arguments.misplaced("task_ids", task_ids, f"({task_ids.numel()},)", device)


def _fits_backward(grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> None:
    _fits(shared, u, v, task_ids)
    arguments.fits("grad", grad, (task_ids.shape[0], *shared.shape), shared.get_device())


def _fits_prepend(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> None:
    _fits(shared, u, v, task_ids)
    text = input_embeds.shape[1] if input_embeds.dim() == 3 else 0
    arguments.fits("input_embeds", input_embeds, (task_ids.shape[0], text, shared.shape[1]), shared.get_device())


def _outputs(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
    return allocate(shared, accumulation_type(shared, u, v), task_ids.shape[0], *shared.shape)


def _outputs_backward(grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> tuple[Tensor, ...]:
    acc = accumulation_type(shared, u, v)
    return allocate(shared, acc, *shared.shape), allocate(u, acc, *u.shape), allocate(v, acc, *v.shape)


def _outputs_prepend(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
    rows, text, hidden = input_embeds.shape
    return input_embeds.new_empty(rows, shared.shape[0] + text, hidden)


def _native(
    native: Native, out: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, embeds: Tensor | None = None
) -> None:
    acc = out.dtype if embeds is None else accumulation_type(shared, u, v)
    (shared, u, v), task_ids = typed(acc, shared, u, v), task_ids.contiguous()
    embeds = None if embeds is None else embeds.contiguous()
    (length, hidden), (tasks, _, rank) = shared.shape, u.shape
    native.run(
        native.module.compose, shared.device,
        shared.data_ptr(), u.data_ptr(), v.data_ptr(), tasks, length, rank, hidden, acc == torch.float64,
        task_ids.data_ptr(), task_ids.dtype == torch.int64, task_ids.shape[0], address(embeds), out.shape[1] - length,
        CODES[out.dtype], out.data_ptr(),
    )  # fmt: skip


def _native_backward(
    native: Native, outs: tuple[Tensor, ...], grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor
) -> None:
    acc = outs[0].dtype
    (shared, u, v), task_ids = typed(acc, shared, u, v), task_ids.contiguous()
    (length, hidden), (tasks, _, rank) = shared.shape, u.shape
    if grad.stride(2) != 1 or grad.stride(1) != hidden:  # rows of a longer sequence are read in place
        grad = grad.contiguous()
    native.run(
        native.module.compose_backward, shared.device,
        grad.data_ptr(), grad.stride(0), CODES[grad.dtype],
        shared.data_ptr(), u.data_ptr(), v.data_ptr(), tasks, length, rank, hidden, acc == torch.float64,
        task_ids.data_ptr(), task_ids.dtype == torch.int64, task_ids.shape[0],
        *(out.data_ptr() for out in outs),
    )  # fmt: skip


_compose = Operation(
    "compose_prompts",
    "(Tensor shared, Tensor u, Tensor v, Tensor task_ids) -> Tensor",
    check=_fits,
    outputs=_outputs,
    native=_native,
)
_compose_backward = Operation(
    "compose_prompts_backward",
    "(Tensor grad, Tensor shared, Tensor u, Tensor v, Tensor task_ids) -> (Tensor d_shared, Tensor d_u, Tensor d_v)",
    check=_fits_backward,
    outputs=_outputs_backward,
    native=_native_backward,
)
_prepend = Operation(
    "prepend_prompts",
    "(Tensor shared, Tensor u, Tensor v, Tensor task_ids, Tensor input_embeds) -> Tensor",
    check=_fits_prepend,
    outputs=_outputs_prepend,
    native=_native,
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
    """Compose a prompt for every batch row: ``shared * (u[task_ids] @ v[task_ids])`` (MPT, ICLR 2023, eq. 2).

    Args:
        shared: (L, H), the prompt P* shared by all tasks.
        u: (T, L, R), left factors of the tasks.
        v: (T, R, H), right factors of the tasks.
        task_ids: (B,) int32 or int64, task of each batch row.

    Returns:
        (B, L, H); float32, or float64 if an argument is float64. Once differentiable in shared, u and v.

    Raises:
        ValueError: an argument has a wrong rank, size, type or device.
        IndexError: a task id is outside 0..T-1 (on a GPU, a device-side assertion as in torch's own indexing).
    """
    direct = _compose.ready(shared, u, v, task_ids)
    if not direct:
        _check(shared, u, v, task_ids)
    if needs_gradient("compose_prompts", shared, u, v):
        return recording(_ComposePrompts, _ComposeTransformed).apply(direct, shared, u, v, task_ids)
    return _compose.by(direct)(shared, u, v, task_ids)


def prepend_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
    """Write the model input ``[compose_prompts(...); input_embeds]`` in one pass over memory.

    Args:
        shared, u, v, task_ids: as in `compose_prompts`.
        input_embeds: (B, S, H), embeddings of the text.

    Returns:
        (B, L+S, H) in the type of ``input_embeds``, with the prompt first. Once differentiable in shared, u, v and
        input_embeds.

    Raises:
        ValueError: an argument has a wrong rank, size, type or device.
        IndexError: a task id is outside 0..T-1.
    """
    direct = _prepend.ready(shared, u, v, task_ids, input_embeds)
    if not direct:
        _check(shared, u, v, task_ids, input_embeds)
    if needs_gradient("prepend_prompts", shared, u, v, input_embeds):
        return recording(_PrependPrompts, _PrependTransformed).apply(direct, shared, u, v, task_ids, input_embeds)
    return _prepend.by(direct)(shared, u, v, task_ids, input_embeds)


def _factor_gradients(name: str, ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs, saved = ctx.needs_input_grad[1:4], ctx.saved_tensors
    if not any(needs):
        return None, None, None
    d_shared, d_u, d_v = wanted(ctx, needs, _compose_backward, grad, *saved)
    shared, u, v, _ = saved
    return once(name, d_shared, grad, u, v), once(name, d_u, grad, shared, v), once(name, d_v, grad, shared, u)


class _ComposePrompts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, direct: bool, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
        record(ctx, shared, u, v, task_ids)
        return _compose.by(direct)(shared, u, v, task_ids)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_factor_gradients("compose_prompts", ctx, grad), None)


class _PrependPrompts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, direct: bool, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor
    ) -> Tensor:
        record(ctx, shared, u, v, task_ids)
        return _prepend.by(direct)(shared, u, v, task_ids, input_embeds)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        length = ctx.saved_tensors[0].shape[0]
        d_factors = _factor_gradients("prepend_prompts", ctx, grad[:, :length])
        return (None, *d_factors, None, grad[:, length:] if ctx.needs_input_grad[5] else None)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    record(ctx, *inputs[:4])


_ComposeTransformed = transformable(_compose, _keep, _ComposePrompts.backward)
_PrependTransformed = transformable(_prepend, _keep, _PrependPrompts.backward)
