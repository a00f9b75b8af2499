"""Weighted sums of task vectors on top of their common start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from promptkernels.backends.native import CODES, Native, address, addresses, allocate, common, typed
from promptkernels.backends.types import accumulation_type
from promptkernels.ops import arguments
from promptkernels.ops.checks import Sizes
from promptkernels.ops.derivatives import needs_gradient, once, record, recording, transformable, wanted
from promptkernels.ops.table import Operation


def _fits(reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None) -> None:
    tasks, length, hidden = arguments.sizes("prompts", prompts, "TLH")
    device = prompts.get_device()
    arguments.fits("reference", reference, (length, hidden), device)
    arguments.fits("scale", scale, (tasks, length), device)
    arguments.fits("weights", weights, (tasks,), device)


def _fits_backward(
    grad: Tensor, reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None, needs: list[bool]
) -> None:
    _fits(reference, prompts, scale, weights)
    arguments.fits("grad", grad, reference.shape, prompts.get_device())
    arguments.needed(needs, reference=reference, prompts=prompts, scale=scale, weights=weights)


def _outputs(reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None) -> Tensor:
    return allocate(reference, accumulation_type(reference, prompts, scale, weights), *reference.shape)


def _outputs_backward(
    grad: Tensor, reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None, needs: list[bool]
) -> tuple[Tensor, ...]:
    tensors: tuple[Any, ...] = (reference, prompts, scale, weights)
    acc = accumulation_type(*tensors)
    return tuple(grad.new_empty(t.shape if need else (0,), dtype=acc) for t, need in zip(tensors, needs, strict=True))


def _native(
    native: Native, out: Tensor, reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None
) -> None:
    reference, prompts = common(out.dtype, reference, prompts)
    scale, weights = typed(out.dtype, scale, weights)
    native.run(
        native.module.merge, prompts.device,
        reference.data_ptr(), prompts.data_ptr(), address(scale), address(weights), *prompts.shape,
        CODES[prompts.dtype], out.data_ptr(),
    )  # fmt: skip


def _native_backward(
    native: Native,
    outs: tuple[Tensor, ...],
    grad: Tensor,
    reference: Tensor,
    prompts: Tensor,
    scale: Tensor | None,
    weights: Tensor | None,
    needs: list[bool],
) -> None:
    acc = outs[0].dtype
    reference, prompts = common(acc, reference, prompts)
    grad, scale, weights = typed(acc, grad, scale, weights)
    native.run(
        native.module.merge_backward, prompts.device,
        grad.data_ptr(), reference.data_ptr(), prompts.data_ptr(), address(scale), address(weights),
        *prompts.shape, CODES[prompts.dtype], *addresses(needs, outs),
    )  # fmt: skip


_merge = Operation(
    "merge_task_vectors",
    "(Tensor reference, Tensor prompts, Tensor? scale, Tensor? weights) -> Tensor",
    check=_fits,
    outputs=_outputs,
    native=_native,
)
_merge_backward = Operation(
    "merge_task_vectors_backward",
    "(Tensor grad, Tensor reference, Tensor prompts, Tensor? scale, Tensor? weights, bool[4] needs)"
    " -> (Tensor d_reference, Tensor d_prompts, Tensor d_scale, Tensor d_weights)",
    check=_fits_backward,
    outputs=_outputs_backward,
    native=_native_backward,
)


def merge_task_vectors(
    reference: Tensor, prompts: Tensor, scale: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Compute ``reference + sum_t weights_t * scale_t * (prompts_t - reference)``.

    This is DTVG's P_mix and the sum of Task Prompt Vectors.

    Args:
        reference: (L, H), the common start P_init.
        prompts: (T, L, H).
        scale: (T, L), factors per token (DTVG's alpha); None: 1.
        weights: (T,), factors per task, for instance a selection as 0 and 1; None: 1. A weight of exactly 0 drops the
            row, so a NaN in an unselected prompt does not reach the result.

    Returns:
        (L, H); float32, or float64 if an argument is float64. Once differentiable in every tensor.

    Raises:
        ValueError: an argument has a wrong rank, size, type or device.
    """
    direct = _merge.ready(reference, prompts, scale, weights)
    if not direct:
        sizes = Sizes()
        sizes.floating("reference", reference, "LH")
        sizes.floating("prompts", prompts, "TLH")
        if scale is not None:
            sizes.floating("scale", scale, "TL")
        if weights is not None:
            sizes.floating("weights", weights, "T")
    if needs_gradient("merge_task_vectors", reference, prompts, scale, weights):
        return recording(_MergeTaskVectors, _MergeTransformed).apply(direct, reference, prompts, scale, weights)
    return _merge.by(direct)(reference, prompts, scale, weights)


class _MergeTaskVectors(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, direct: bool, reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        record(ctx, reference, prompts, scale, weights)
        return _merge.by(direct)(reference, prompts, scale, weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved, needs = ctx.saved_tensors, list(ctx.needs_input_grad[1:])
        reference, prompts, scale, weights = saved
        d_reference, d_prompts, d_scale, d_weights = wanted(ctx, needs, _merge_backward, grad, *saved, needs)
        name = "merge_task_vectors"
        return (
            None,
            once(name, d_reference, grad, scale, weights),
            once(name, d_prompts, grad, scale, weights),
            once(name, d_scale, grad, reference, prompts, weights),
            once(name, d_weights, grad, reference, prompts, scale),
        )


_MergeTransformed = transformable(_merge, lambda ctx, inputs, _: record(ctx, *inputs), _MergeTaskVectors.backward)
