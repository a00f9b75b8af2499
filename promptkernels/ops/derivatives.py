"""Which derivatives the operations have: the first, in reverse mode. Every other one is refused, never left out.

Torch itself leaves them out without a word: an operation without a forward-mode rule drops tangents, and
`torch.autograd.function.once_differentiable` sees a second derivative only through the incoming gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch
from torch._functorch.pyfunctorch import temporarily_pop_interpreter_stack
from torch.autograd import forward_ad

from promptkernels.backends import registry

_TRANSFORMED = "derivative under torch.func (grad, jacrev, vmap of what requires a gradient, ...)"
_FORWARD_MODE = "forward-mode derivative (forward_ad, torch.func.jvp, jacfwd)"
_SUPPORTED = "only a first derivative in reverse mode is supported (backward, torch.autograd.grad)"


def refusal(name: str, what: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name} has no {what}: {_SUPPORTED}. Write the formula in plain torch where you need another derivative."
    )


def needs_gradient(name: str, *tensors: Tensor | None) -> bool:
    """Whether a call must be recorded; without that the bare operation is called, which costs a third of the time.

    Raises:
        NotImplementedError: a `torch.func` transform would have to record it.
    """
    if not torch.is_grad_enabled():
        return False
    for tensor in tensors:
        if tensor is not None and tensor.requires_grad:
            break
    else:
        return False
    if not torch.compiler.is_compiling():
        if torch._C._are_functorch_transforms_active():
            raise refusal(name, _TRANSFORMED)
        if forward_ad._current_level >= 0:
            refuse_tangents(name, tensors)
    return True


def refuse_tangents(name: str, arguments: Iterable[Any]) -> None:
    """Raise `NotImplementedError` if an argument carries a tangent."""
    for argument in arguments:
        if isinstance(argument, Tensor) and _may_carry_tangent(argument):
            raise refusal(name, _FORWARD_MODE)


def _may_carry_tangent(tensor: Tensor) -> bool:
    try:
        return forward_ad.unpack_dual(tensor).tangent is not None
    except RuntimeError:  # below autograd, where make_fx traces an operation, torch no longer tells
        return True


def refuse_tracked(name: str, arguments: Iterable[Any]) -> None:
    """Raise `NotImplementedError` if a transform of `torch.func`, or one around it, differentiates by an argument."""
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
    """Keep for the backward pass: tensors, and the choice of backend, which threads of autograd do not inherit."""
    ctx.save_for_backward(*tensors)
    if not torch.compiler.is_compiling():
        ctx.backend = registry.forced()


def wanted(ctx: Any, needs: Sequence[bool], backward: Callable[..., Any], *arguments: Any) -> tuple[Tensor | None, ...]:
    """The gradients of a raw backward operation, by the backend of the forward one; None where nobody needs them."""
    with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
        if torch.compiler.is_compiling():
            gradients = backward(*arguments)
        else:
            gradients = registry.call_under(ctx.backend, backward, *arguments)
    return tuple(g if need else None for g, need in zip(gradients, needs, strict=True))


def once(name: str, gradient: Tensor | None, *sources: Tensor | None) -> Tensor | None:
    """A gradient that depends on ``sources`` and raises where it is itself differentiated by one of them."""
    if gradient is None or not torch.is_grad_enabled() or not any(t is not None and t.requires_grad for t in sources):
        return gradient
    return _Once.apply(name, gradient, *sources)


class _Once(torch.autograd.Function):
    """Its node lies on the path to the sources, so it runs when, and only when, a second derivative is asked for."""

    @staticmethod
    def forward(ctx: Any, name: str, gradient: Tensor, *sources: Tensor | None) -> Tensor:
        ctx.name = name
        return gradient.detach()

    @staticmethod
    def backward(ctx: Any, *_grad: Tensor) -> None:
        raise refusal(ctx.name, "second derivative")
