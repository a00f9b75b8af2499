"""Similarity of task vectors: cosine, its z score over tokens, and the token-mean forms of SPoT and DTVG."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from promptkernels.backends.native import CODES, Native, address, addresses, allocate, common, typed
from promptkernels.backends.types import accumulation_type
from promptkernels.ops import arguments
from promptkernels.ops.checks import Sizes, is_positive, one_of
from promptkernels.ops.derivatives import needs_gradient, once, record, recording, transformable, wanted
from promptkernels.ops.table import Operation

METRICS = ("cosine", "token_mean_cosine", "token_mean_dot")  # same order as in the compiled modules


def _fits(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, metric: str, eps: float
) -> None:
    n, length, hidden = arguments.sizes("prompts", prompts, "TLH")
    device = prompts.get_device()
    arguments.fits("reference", reference, (length, hidden), device)
    if others is not None:
        arguments.fits("others", others, (arguments.sizes("others", others, "SLH")[0], length, hidden), device)
    arguments.fits("scale", scale, (n, length), device)
    arguments.known("metric", metric, METRICS)
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps}")


def _fits_z(prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, eps: float) -> None:
    _fits(prompts, reference, others, scale, "cosine", eps)


def _fits_backward(
    grad: Tensor,
    prompts: Tensor,
    reference: Tensor | None,
    others: Tensor | None,
    scale: Tensor | None,
    metric: str,
    eps: float,
    similarity: Tensor,
    left_norm: Tensor,
    right_norm: Tensor,
    needs: list[bool],
) -> None:
    _fits(prompts, reference, others, scale, metric, eps)
    n, m, device = prompts.shape[0], (prompts if others is None else others).shape[0], prompts.get_device()
    acc = accumulation_type(prompts, reference, others, scale)
    arguments.fits("grad", grad, (n, m), device)
    arguments.saved("similarity", similarity, (n, m), device, acc)
    arguments.saved("left_norm", left_norm, (n,), device, acc)
    arguments.saved("right_norm", right_norm, (m,), device, acc)
    arguments.needed(needs, prompts=prompts, reference=reference, others=others, scale=scale)


def _outputs(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, *_: Any
) -> tuple[Tensor, ...]:
    acc = accumulation_type(prompts, reference, others, scale)
    n, m = prompts.shape[0], (prompts if others is None else others).shape[0]
    return allocate(prompts, acc, n, m), allocate(prompts, acc, n), allocate(prompts, acc, m)


def _outputs_z(prompts: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    similarity, left_norm, right_norm = _outputs(prompts, *rest)
    return similarity, left_norm, right_norm, torch.empty_like(similarity)


def _outputs_backward(
    grad: Tensor, prompts: Tensor, reference: Any, others: Any, scale: Any, metric: str, eps: float, *saved: Any
) -> tuple[Tensor, ...]:
    similarity, _, _, needs = saved
    tensors = prompts, reference, others, scale
    return tuple(similarity.new_empty(t.shape if need else (0,)) for t, need in zip(tensors, needs, strict=True))


def _native(
    native: Native,
    outs: tuple[Tensor, ...],
    prompts: Tensor,
    reference: Tensor | None,
    others: Tensor | None,
    scale: Tensor | None,
    metric: str,
    eps: float,
) -> None:
    similarity, left_norm, right_norm, *z = outs
    acc = similarity.dtype
    prompts, reference, others = common(acc, prompts, reference, others)
    (scale,) = typed(acc, scale)
    native.run(
        native.module.similarity, prompts.device,
        prompts.data_ptr(), address(reference), address(others), address(scale),
        *similarity.shape, *prompts.shape[1:], CODES[prompts.dtype], METRICS.index(metric), eps,
        similarity.data_ptr(), left_norm.data_ptr(), right_norm.data_ptr(), z[0].data_ptr() if z else 0,
    )  # fmt: skip


def _native_z(
    native: Native, outs: tuple[Tensor, ...], prompts: Tensor, reference: Any, others: Any, scale: Any, eps: float
) -> None:
    _native(native, outs, prompts, reference, others, scale, "cosine", eps)


def _native_backward(
    native: Native,
    outs: tuple[Tensor, ...],
    grad: Tensor,
    prompts: Tensor,
    reference: Tensor | None,
    others: Tensor | None,
    scale: Tensor | None,
    metric: str,
    eps: float,
    similarity: Tensor,
    left_norm: Tensor,
    right_norm: Tensor,
    needs: list[bool],
) -> None:
    acc = similarity.dtype
    prompts, reference, others = common(acc, prompts, reference, others)
    grad, scale, similarity = typed(acc, grad, scale, similarity)
    left_norm, right_norm = typed(acc, left_norm, right_norm)
    native.run(
        native.module.similarity_backward, prompts.device,
        grad.data_ptr(), prompts.data_ptr(), address(reference), address(others), address(scale),
        *similarity.shape, *prompts.shape[1:], CODES[prompts.dtype], METRICS.index(metric), eps,
        similarity.data_ptr(), left_norm.data_ptr(), right_norm.data_ptr(), *addresses(needs, outs),
    )  # fmt: skip


_similarity = Operation(
    "task_similarity",
    "(Tensor prompts, Tensor? reference, Tensor? others, Tensor? scale, str metric, float eps)"
    " -> (Tensor similarity, Tensor left_norm, Tensor right_norm)",
    check=_fits,
    outputs=_outputs,
    native=_native,
)
_similarity_z = Operation(
    "task_similarity_z",
    "(Tensor prompts, Tensor? reference, Tensor? others, Tensor? scale, float eps)"
    " -> (Tensor similarity, Tensor left_norm, Tensor right_norm, Tensor z)",
    check=_fits_z,
    outputs=_outputs_z,
    native=_native_z,
)
_similarity_backward = Operation(
    "task_similarity_backward",
    "(Tensor grad, Tensor prompts, Tensor? reference, Tensor? others, Tensor? scale, str metric, float eps,"
    " Tensor similarity, Tensor left_norm, Tensor right_norm, bool[4] needs)"
    " -> (Tensor d_prompts, Tensor d_reference, Tensor d_others, Tensor d_scale)",
    check=_fits_backward,
    outputs=_outputs_backward,
    native=_native_backward,
)


@overload
def task_similarity(
    prompts: Tensor,
    reference: Tensor | None = ...,
    others: Tensor | None = ...,
    *,
    metric: str = ...,
    scale: Tensor | None = ...,
    eps: float = ...,
    return_z: Literal[False] = ...,
) -> Tensor: ...


@overload
def task_similarity(
    prompts: Tensor,
    reference: Tensor | None = ...,
    others: Tensor | None = ...,
    *,
    metric: str = ...,
    scale: Tensor | None = ...,
    eps: float = ...,
    return_z: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def task_similarity(
    prompts: Tensor,
    reference: Tensor | None = None,
    others: Tensor | None = None,
    *,
    metric: str = "cosine",
    scale: Tensor | None = None,
    eps: float = 1e-8,
    return_z: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Pairwise similarity of the task vectors ``scale * (prompts - reference)``.

    The reference is subtracted and the scale applied while the prompts are read, so task vectors are never stored. A
    zero task vector (a prompt that is still at its start) has similarity 0 with everything and receives no gradient.

    Args:
        prompts: (T, L, H), or (T, D) for flat vectors.
        reference: (L, H) [or (D,)], the common start P_init of all prompts; None: 0.
        others: (S, L, H) [or (S, D)], prompts to compare with in place of ``prompts``; never scaled.
        metric: ``cosine`` of the flattened task vectors; ``token_mean_cosine``, the cosine of their means over tokens
            (SPoT, Vu et al. 2022); ``token_mean_dot``, the dot product of these means (DTVG 2025, sim(T_1, T_2)).
        scale: (T, L) [or (T, 1) for flat vectors], factors per token (DTVG's alpha).
        eps: lower bound of the norms, in the units of the prompts.
        return_z: also return z, which tests whether a cosine is larger than by chance; only for ``cosine`` of (T, L, H)
            prompts. With p_l the dot product of the two task vectors of token l, z = sum_l p_l / sqrt(sum_l p_l^2).
            Under the null hypothesis that the signs of the p_l are random and independent, z has mean 0 and variance 1.
            It is between -sqrt(L) and sqrt(L), and 0 if all p_l are 0. The prompts are read once for both results.

    Returns:
        (T, T), or (T, S) with ``others``; float32, or float64 if an argument is float64. Once differentiable in every
        tensor. With ``return_z``, ``(similarity, z)``, both with this shape and type; z is not differentiable.

    Raises:
        ValueError: an argument has a wrong rank, size, type, device or value.
    """
    one_of("metric", metric, METRICS)
    if not is_positive(eps):
        raise ValueError(f"eps must be a number > 0, got {eps!r}")
    direct = return_z is False and _similarity.ready(prompts, reference, others, scale, metric, eps)
    if not direct and _check(prompts, reference, others, scale, metric, return_z):
        prompts = prompts.unsqueeze(1)
        reference = None if reference is None else reference.unsqueeze(0)
        others = None if others is None else others.unsqueeze(1)
    operation = _similarity_z if return_z else _similarity
    inputs = (prompts, reference, others, scale, eps) if return_z else (prompts, reference, others, scale, metric, eps)
    if needs_gradient("task_similarity", prompts, reference, others, scale):
        function = recording(_TaskSimilarity, _TransformedZ if return_z else _Transformed)
        outputs = function.apply(direct, *inputs)
        if function is _TaskSimilarity:
            return outputs
    else:
        outputs = operation.by(direct)(*inputs)
    return (outputs[0], outputs[3]) if return_z else outputs[0]


def _check(
    prompts: Tensor,
    reference: Tensor | None,
    others: Tensor | None,
    scale: Tensor | None,
    metric: str,
    return_z: object,
) -> bool:
    """Check the arguments; return whether the prompts are flat."""
    sizes = Sizes()
    flat = isinstance(prompts, Tensor) and prompts.dim() == 2
    if return_z is not False:
        _check_return_z(return_z, metric, flat, prompts)
    inner = "D" if flat else "LH"
    sizes.floating("prompts", prompts, "T" + inner)
    if reference is not None:
        sizes.floating("reference", reference, inner)
    if others is not None:
        sizes.floating("others", others, "S" + inner)
    if scale is not None:
        sizes.floating("scale", scale, "T1" if flat else "TL")
        if flat and scale.shape[1] != 1:
            raise ValueError(f"scale must have shape (T, 1) for flat prompts, got {tuple(scale.shape)}")
    return flat


def _check_return_z(return_z: object, metric: str, flat: bool, prompts: Tensor) -> None:
    if not isinstance(return_z, bool):
        raise ValueError(f"return_z must be True or False, got {return_z!r}")
    if metric != "cosine":
        raise ValueError(
            f"return_z needs metric 'cosine', got {metric!r}: means over tokens have no dot products per token; "
            f"call task_similarity again with metric='cosine' for z"
        )
    if flat:
        raise ValueError(f"return_z needs prompts of shape (T, L, H), got {tuple(prompts.shape)}: they have no tokens")


class _TaskSimilarity(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, direct: bool, *inputs: Any) -> Tensor | tuple[Tensor, Tensor]:
        outputs = (_similarity if len(inputs) == 6 else _similarity_z).by(direct)(*inputs)
        _keep(ctx, inputs, outputs)
        if len(inputs) == 6:
            return outputs[0]
        ctx.mark_non_differentiable(outputs[3])
        return outputs[0], outputs[3]

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        prompts, reference, others, scale, similarity, left_norm, right_norm = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[1:5])
        inputs = prompts, reference, others, scale
        arguments = *inputs, ctx.metric, ctx.eps, similarity, left_norm, right_norm, needs
        gradients = wanted(ctx, needs, _similarity_backward, grad, *arguments)
        linear = ctx.metric == "token_mean_dot" and others is not None  # in prompts, in others and in scale
        tied = []
        for place, gradient in enumerate(gradients):
            sources = [t for other, t in enumerate(inputs) if not (linear and other == place != 1)]
            tied.append(once("task_similarity", gradient, grad, *sources))
        return (None, *tied, *(None for _ in ctx.needs_input_grad[5:]))


def _keep(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    """Save the inputs of either operation. The one with z has only one metric."""
    record(ctx, *inputs[:4], *outputs[:3])
    ctx.metric, ctx.eps = inputs[4:] if len(inputs) == 6 else ("cosine", *inputs[4:])


_Transformed = transformable(_similarity, _keep, _TaskSimilarity.backward)
_TransformedZ = transformable(_similarity_z, _keep, _TaskSimilarity.backward)
