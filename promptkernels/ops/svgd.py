"""The direction of Stein variational gradient descent with an RBF kernel."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor

from promptkernels.backends.native import CODES, Native, allocate, common, typed
from promptkernels.backends.types import accumulation_type
from promptkernels.ops import arguments
from promptkernels.ops.checks import Sizes, is_positive, one_of
from promptkernels.ops.derivatives import needs_gradient, once, record, recording, transformable, wanted
from promptkernels.ops.table import Operation

CONVENTIONS = ("liu2016", "numpyro", "blackjax")
_BANDWIDTHS = ("fixed", *CONVENTIONS)  # same order as in the compiled modules


def _fits(particles: Tensor, scores: Tensor, bandwidth: float, convention: str, per_token: bool) -> None:
    shape = arguments.sizes("particles", particles, "MLH")
    arguments.fits("scores", scores, shape, particles.get_device())
    arguments.known("convention", convention, _BANDWIDTHS)
    if convention == "fixed" and not bandwidth > 0:
        raise ValueError(f"bandwidth must be > 0 if the convention is fixed, got {bandwidth}")


def _fits_backward(grad: Tensor, particles: Tensor, scores: Tensor, kernel: Tensor, h: Tensor, per_token: bool) -> None:
    _fits(particles, scores, 1.0, "fixed", per_token)
    (m, length, _), device = particles.shape, particles.get_device()
    groups, acc = length if per_token else 1, accumulation_type(particles, scores)
    arguments.fits("grad", grad, particles.shape, device)
    arguments.saved("kernel", kernel, (groups, m, m), device, acc)
    arguments.saved("h", h, (groups,), device, acc)


def _outputs(
    particles: Tensor, scores: Tensor, bandwidth: float, convention: str, per_token: bool
) -> tuple[Tensor, ...]:
    acc = accumulation_type(particles, scores)
    m, length, _ = particles.shape
    groups = length if per_token else 1
    phi = allocate(particles, acc, *particles.shape)
    return phi, allocate(particles, acc, groups, m, m), allocate(particles, acc, groups)


def _outputs_backward(
    grad: Tensor, particles: Tensor, scores: Tensor, kernel: Tensor, h: Tensor, per_token: bool
) -> tuple[Tensor, ...]:
    return kernel.new_empty(particles.shape), kernel.new_empty(particles.shape)


def _native(
    native: Native,
    outs: tuple[Tensor, ...],
    particles: Tensor,
    scores: Tensor,
    bandwidth: float,
    convention: str,
    per_token: bool,
) -> None:
    phi, kernel, h = outs
    acc = phi.dtype
    (particles,), (scores,) = common(acc, particles), common(acc, scores)
    native.run(
        native.module.svgd, particles.device,
        particles.data_ptr(), scores.data_ptr(), *particles.shape,
        CODES[particles.dtype], CODES[scores.dtype], _BANDWIDTHS.index(convention), bandwidth, per_token,
        phi.data_ptr(), kernel.data_ptr(), h.data_ptr(),
    )  # fmt: skip


def _native_backward(
    native: Native,
    outs: tuple[Tensor, ...],
    grad: Tensor,
    particles: Tensor,
    scores: Tensor,
    kernel: Tensor,
    h: Tensor,
    per_token: bool,
) -> None:
    acc = kernel.dtype
    (particles,), (scores,) = common(acc, particles), common(acc, scores)
    grad, kernel, h = typed(acc, grad, kernel, h)
    native.run(
        native.module.svgd_backward, particles.device,
        grad.data_ptr(), particles.data_ptr(), scores.data_ptr(), *particles.shape,
        CODES[acc], CODES[particles.dtype], CODES[scores.dtype],
        kernel.data_ptr(), h.data_ptr(), per_token, *(out.data_ptr() for out in outs),
    )  # fmt: skip


_direction = Operation(
    "svgd_direction",
    "(Tensor particles, Tensor scores, float bandwidth, str convention, bool per_token)"
    " -> (Tensor phi, Tensor kernel, Tensor h)",
    check=_fits,
    outputs=_outputs,
    native=_native,
)
_direction_backward = Operation(
    "svgd_direction_backward",
    "(Tensor grad, Tensor particles, Tensor scores, Tensor kernel, Tensor h, bool per_token)"
    " -> (Tensor d_particles, Tensor d_scores)",
    check=_fits_backward,
    outputs=_outputs_backward,
    native=_native_backward,
)


@overload
def svgd_direction(
    particles: Tensor,
    scores: Tensor,
    *,
    bandwidth: float | str = ...,
    reference: Tensor | None = ...,
    per_token: bool = ...,
    return_kernel: Literal[False] = ...,
) -> Tensor: ...


@overload
def svgd_direction(
    particles: Tensor,
    scores: Tensor,
    *,
    bandwidth: float | str = ...,
    reference: Tensor | None = ...,
    per_token: bool = ...,
    return_kernel: Literal[True],
) -> tuple[Tensor, tuple[Tensor, Tensor]]: ...


def svgd_direction(
    particles: Tensor,
    scores: Tensor,
    *,
    bandwidth: float | str = "liu2016",
    reference: Tensor | None = None,
    per_token: bool = False,
    return_kernel: bool = False,
) -> Tensor | tuple[Tensor, tuple[Tensor, Tensor]]:
    """SVGD direction of particles with an RBF kernel (Liu & Wang 2016, eq. 8).

    phi_i = (1/M) sum_j [K_ij scores_j + (2/h) K_ij (x_i - x_j)], K_ij = exp(-|x_i - x_j|^2 / h).

    Distances come from a Gram matrix of *centred* particles. It is as fast as the usual Gram form and keeps float32
    accuracy for close particles (one per cent apart: an error of 1e-7, where the uncentred form has 1e-3 to 1e-2).
    One particle gives ``phi = scores``; identical particles give the mean score.

    Args:
        particles: (M, L, H), or (M, D) for flat particles.
        scores: grad log p at each particle, same shape.
        bandwidth: h itself (> 0, in squared units of the particles), or a convention for it, with d the distances:
            ``liu2016``: median of all M^2 values d^2 / log(M + 1); ``numpyro``: (median of all M^2 values d)^2 / log(M)
            + machine epsilon; ``blackjax``: (median of d over pairs)^2 / log(M). The gradient treats it as a constant.
        reference: (L, H) [or (D,)], the start of the particles. Only its shape is checked: the direction does not
            depend on it, and no fixed row centres as well as one of the particles.
        per_token: use one kernel per token, in R^H, instead of one for the flattened prompt.
        return_kernel: also return K and h.

    Returns:
        phi, with the shape of ``particles``; float32, or float64 if an argument is float64. With ``return_kernel``,
        ``(phi, (K, h))``: K (M, M) and h (), or with ``per_token`` K (L, M, M) and h (L,). phi is once differentiable
        in particles and scores; K and h are not differentiable.

    Raises:
        ValueError: an argument has a wrong rank, size, type, device or value.
    """
    value, convention = _bandwidth(bandwidth)
    if not isinstance(per_token, bool):
        raise ValueError(f"per_token must be True or False, got {per_token!r}")
    direct = reference is None and _direction.ready(particles, scores, value, convention, per_token)
    shape = None if direct else _check(particles, scores, reference, per_token)
    if shape is not None and len(shape) == 2:
        particles, scores = particles.unsqueeze(1), scores.unsqueeze(1)
    if needs_gradient("svgd_direction", particles, scores):
        function = recording(_SVGDDirection, _SVGDTransformed)
        phi, kernel, h = function.apply(direct, particles, scores, value, convention, per_token)
    else:
        phi, kernel, h = _direction.by(direct)(particles, scores, value, convention, per_token)
    if shape is not None:
        phi = phi.view(shape)
    if not return_kernel:
        return phi
    return phi, ((kernel, h) if per_token else (kernel[0], h[0]))


def _bandwidth(bandwidth: object) -> tuple[float, str]:
    """Convert the bandwidth to the operation's arguments: a number and its convention."""
    if isinstance(bandwidth, str):
        one_of("bandwidth", bandwidth, CONVENTIONS, " or a number > 0")
        return 0.0, bandwidth
    if isinstance(bandwidth, (int, float)) and is_positive(bandwidth):
        return float(bandwidth), "fixed"
    # A tensor may be on another device or require a gradient. Do not copy it to the host or drop its gradient silently.
    hint = "; pass float(bandwidth), it is a constant here" if isinstance(bandwidth, Tensor) else ""
    raise ValueError(f"bandwidth must be a number > 0 or one of {', '.join(CONVENTIONS)}, got {bandwidth!r}{hint}")


def _check(particles: Tensor, scores: Tensor, reference: Tensor | None, per_token: bool) -> torch.Size:
    sizes = Sizes()
    flat = isinstance(particles, Tensor) and particles.dim() == 2
    inner = "D" if flat else "LH"
    sizes.floating("particles", particles, "M" + inner)
    sizes.floating("scores", scores, "M" + inner)
    if reference is not None:
        sizes.floating("reference", reference, inner)
    if per_token and flat:
        raise ValueError(f"per_token needs particles of shape (M, L, H), got {tuple(particles.shape)}")
    return particles.shape


class _SVGDDirection(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, direct: bool, particles: Tensor, scores: Tensor, bandwidth: float, convention: str, per_token: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        inputs = particles, scores, bandwidth, convention, per_token
        phi, kernel, h = outputs = _direction.by(direct)(*inputs)
        _keep(ctx, inputs, outputs)
        ctx.mark_non_differentiable(kernel, h)
        return phi, kernel, h

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _grad_kernel: Tensor, _grad_h: Tensor) -> tuple[Tensor | None, ...]:
        particles, scores, kernel, h = ctx.saved_tensors
        d_particles, d_scores = wanted(
            ctx, ctx.needs_input_grad[1:3], _direction_backward, grad, particles, scores, kernel, h, ctx.per_token
        )
        d_particles = once("svgd_direction", d_particles, grad, particles, scores)
        return None, d_particles, once("svgd_direction", d_scores, grad, particles), None, None, None


def _keep(ctx: Any, inputs: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    record(ctx, *inputs[:2], *outputs[1:])
    ctx.per_token = inputs[4]


_SVGDTransformed = transformable(_direction, _keep, _SVGDDirection.backward)
