"""Derivatives of the operations: first order, in reverse mode. Any other derivative raises an error.

torch itself would silently drop them: an operation without a forward-mode rule drops tangents, and
`torch.autograd.function.once_differentiable` sees a second derivative only through the incoming gradient.

Transforms of `torch.func` need autograd functions in a different form, which is slower in ordinary calls. It is derived
from the ordinary form and used only under a transform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
from torch.autograd import forward_ad

from promptkernels.backends import registry

_TRANSFORMED = "derivative under torch.func if it is called directly (its public function has one)"
_FORWARD_MODE = "forward-mode derivative (forward_ad, torch.func.jvp, jacfwd)"
_SECOND = "second derivative"
_SUPPORTED = "only a first derivative in reverse mode is supported (backward, torch.autograd.grad, torch.func.grad)"


def refusal(name: str, what: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name} has no {what}: {_SUPPORTED}. Write the formula in plain torch if you need another derivative."
    )


def needs_gradient(name: str, *tensors: Tensor | None) -> bool:
    """Whether autograd must record a call. If not, the bare operation is called, in a third of the time."""
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:
        if tensor is not None and tensor.requires_grad:
            break
    else:
        return transforming() and any(tensor is not None and _tracked(tensor) for tensor in tensors)
    if forward_ad._current_level >= 0 and not torch.compiler.is_compiling():
        refuse_tangents(name, tensors)
    return True


def transforming() -> bool:
    """Whether a transform of `torch.func` is active."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def recording(ordinary: Any, transformed: Any) -> Any:
    """The autograd function to record a call with."""
    return transformed if transforming() else ordinary


def _tracked(tensor: Tensor) -> bool:
    """Whether a transform, or torch's autograd below all transforms, differentiates with respect to a tensor."""
    while not tensor.requires_grad:
        if not _functorch.is_functorch_wrapped_tensor(tensor):
            return False
        tensor = _functorch.get_unwrapped(tensor)
    return True


def refuse_tangents(name: str, arguments: Iterable[Any]) -> None:
    """Raise `NotImplementedError` if an argument has a tangent."""
    for argument in arguments:
        if isinstance(argument, Tensor) and _may_carry_tangent(argument):
            raise refusal(name, _FORWARD_MODE)


def _may_carry_tangent(tensor: Tensor) -> bool:
    try:
        return forward_ad.unpack_dual(tensor).tangent is not None
    except RuntimeError:  # torch does not say below autograd, where make_fx traces an operation
        return True


def refuse_tracked(name: str, arguments: Iterable[Any]) -> None:
    """Raise `NotImplementedError` if an active transform of `torch.func` differentiates by an argument."""
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    interpreter = _functorch.peek_interpreter_stack()
    if interpreter is None:
        if forward_ad._current_level >= 0:
            refuse_tangents(name, tensors)
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            raise refusal(name, _TRANSFORMED)
        return
    for place, tensor in enumerate(tensors):
        if _functorch.maybe_get_level(tensor) != interpreter.level():
            continue
        if interpreter.key() == _functorch.TransformType.Jvp:
            refuse_tangents(name, (tensor,))
        elif interpreter.key() == _functorch.TransformType.Grad and tensor.requires_grad:
            raise refusal(name, _TRANSFORMED)
        tensors[place] = _functorch.get_unwrapped(tensor)
    with temporarily_pop_interpreter_stack():
        refuse_tracked(name, tensors)


def record(ctx: Any, *tensors: Tensor | None) -> None:
    """Save tensors for the backward pass, and the choice of backend, which autograd's threads do not inherit."""
    ctx.save_for_backward(*tensors)
    if not torch.compiler.is_compiling():
        ctx.backend = registry.forced()


def wanted(ctx: Any, needs: Sequence[bool], backward: Callable[..., Any], *arguments: Any) -> tuple[Tensor | None, ...]:
    """Gradients of a raw backward operation, by the backend of the forward one; None for those not needed."""
    if transforming():
        gradients = registry.call_under(ctx.backend, _Gradient.apply, backward, *arguments)
    else:
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            if torch.compiler.is_compiling():
                gradients = backward(*arguments)
            else:
                gradients = registry.call_under(ctx.backend, backward, *arguments)
    return tuple(g if need else None for g, need in zip(gradients, needs, strict=True))


def once(name: str, gradient: Tensor | None, *sources: Tensor | None) -> Tensor | None:
    """A gradient that depends on ``sources`` and raises if it is differentiated with respect to one of them."""
    if gradient is None or not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in sources):
        return gradient
    if transforming():  # `_Gradient` handles this case
        return gradient
    return _Once.apply(name, gradient, *sources)


class _Once(torch.autograd.Function):
    """Node on the path to the sources, so it runs if and only if a second derivative is requested."""

    @staticmethod
    def forward(ctx: Any, name: str, gradient: Tensor, *sources: Tensor | None) -> Tensor:
        ctx.name = name
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *_grad: Tensor) -> None:
        raise refusal(ctx.name, _SECOND)


def transformable(operation: Any, keep: Callable[..., None], backward: Callable[..., Any]) -> Any:
    """Build the autograd function for transforms of `torch.func`.

    Args:
        operation: an operation of `promptkernels.ops.table`. Its first output has a derivative.
        keep: ``keep(ctx, inputs, outputs)`` saves what the gradient needs.
        backward: backward of the ordinary function, whose first input says whether to skip the dispatcher.
    """

    class Transformable(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(direct: bool, *inputs: Any) -> Any:
            return operation.overload(*inputs)

        @staticmethod
        def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            keep(ctx, inputs[1:], output)
            if isinstance(output, tuple):
                ctx.mark_non_differentiable(*output[1:])

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            return backward(ctx, *gradients)

        @staticmethod
        def jvp(ctx: Any, *tangents: Tensor | None) -> NoReturn:
            raise refusal(operation.name, _FORWARD_MODE)

    return Transformable


class _Gradient(torch.autograd.Function):
    """A raw backward operation under a transform. It cannot be differentiated again."""

    generate_vmap_rule = True

    @staticmethod
    def forward(operation: Any, *arguments: Any) -> Any:
        return operation.overload(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.name = inputs[0].name.removesuffix("_backward")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        raise refusal(ctx.name, _SECOND)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> NoReturn:
        raise refusal(ctx.name, _FORWARD_MODE)
