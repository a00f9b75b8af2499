"""The table of operations. Each is declared once, for torch and all backends.

torch gets the same kernel for every device. It asks the registry for the backend and calls the backend's function of
the same name. So each operation is opaque to `torch.compile`, and forcing a backend works inside compiled code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from promptkernels.backends import registry
from promptkernels.backends.native import Native
from promptkernels.ops.derivatives import refuse_tangents, refuse_tracked
from promptkernels.ops.direct import SPECIAL, dispatch_keys, watched

TABLE: dict[str, Operation] = {}

_LIBRARY = torch.library.Library("promptkernels", "DEF")

# Strided tensors on any device. torch itself rejects sparse, quantized and nested tensors, whose memory differs.
_DENSE = ("CPU", "CUDA", "XPU", "MPS", "HPU", "MTIA", "MAIA", "PrivateUse1")


class Operation:
    """``torch.ops.promptkernels.<name>``, and the entry of that name in the table.

    Args:
        schema: torch schema, without the name.
        check: raises for invalid arguments. Compiled kernels get only addresses, so a tensor of the wrong size, type
            or device would be read or written outside of its memory.
        outputs: allocates the results; also used as the fake kernel.
        native: computes the results with a compiled module, ``native(module, results, *arguments)``.
        differentiable: whether to raise for unsupported derivatives: tangents, and tensors tracked by `torch.func`.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        *,
        check: Callable[..., None],
        outputs: Callable[..., Any],
        native: Callable[..., None],
        differentiable: bool = True,
    ) -> None:
        self.name, self.family = name, check.__module__.rpartition(".")[2]
        self.check, self.outputs, self.native, self.differentiable = check, outputs, native, differentiable
        parameters = inspect.signature(check).parameters
        self._names = tuple(parameters)
        # Positions of tensor arguments, and whether they are required.
        kinds = {"Tensor": True, "Tensor | None": False}
        self._tensors = tuple(
            (place, kinds[str(one.annotation)])
            for place, one in enumerate(parameters.values())
            if one.annotation in kinds
        )
        self.overload = self._define(name, schema)
        if differentiable:
            # Under a transform of torch.func, calls arrive here first. The overload continues with torch's own rules.
            inner = self._define(f"{name}.inner", schema)

            def checked(*arguments: Any) -> Any:
                refuse_tracked(name, arguments)
                return inner(*arguments)

            _LIBRARY.impl(name, checked, "FuncTorchDynamicLayerFrontMode")
        TABLE[name] = self

    def __call__(self, *arguments: Any) -> Any:
        """Call the kernel directly, or through torch if something else must see the call."""
        return (self.run if self.ready(*arguments) else self.overload)(*arguments)

    def ready(self, *arguments: Any) -> bool:
        """Whether `run` may be called: torch does not need to see the call, and the arguments pass the check."""
        if watched(arguments):
            return False
        try:
            for place, required in self._tensors:
                tensor = arguments[place]
                if tensor is None:
                    if required:
                        return False
                elif dispatch_keys(tensor).raw_repr() & SPECIAL:
                    return False
            self.check(*arguments)
        except (ValueError, IndexError, TypeError):  # the call through torch will raise the error
            return False
        return True

    def by(self, direct: bool) -> Callable[..., Any]:
        """`run` if the arguments are known to be `ready`, else the call through torch."""
        return self.run if direct else self

    def run(self, *arguments: Any) -> Any:
        """Call the backend chosen for the first argument, without checks."""
        first = arguments[0]
        return registry.choose(first.device, first.dtype).functions[self.name](*arguments)

    def compiled(self, module: Native) -> Callable[..., Any]:
        """A backend's function that calls a compiled module."""

        outputs, native = self.outputs, self.native

        def function(*arguments: Any) -> Any:
            results = outputs(*arguments)
            native(module, results, *arguments)
            return results

        return function

    def implementation_in(self, package: str) -> Callable[..., Any]:
        """The function with this operation's name, in the module of its family in a package."""
        function: Callable[..., Any] = getattr(import_module(f"{package}.{self.family}"), self.name)
        return function

    def _define(self, name: str, schema: str) -> Any:
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        for key in _DENSE:
            _LIBRARY.impl(name, self._kernel, key)
        torch.library.register_fake(f"promptkernels::{name}", self._fake, lib=_LIBRARY)
        return getattr(getattr(torch.ops.promptkernels, self.name), name.partition(".")[2] or "default")

    def _kernel(self, *arguments: Any) -> Any:
        for place, required in self._tensors:
            if required and arguments[place] is None:  # torch does not check this
                raise ValueError(f"{self._names[place]} must be a tensor, got None")
        self.check(*arguments)
        if forward_ad._current_level >= 0 and self.differentiable:
            refuse_tangents(self.name, arguments)
        return self.run(*arguments)

    def _fake(self, *arguments: Any) -> Any:
        first = arguments[0]
        for name, value in zip(self._names, arguments, strict=True):
            # torch also calls the fake kernel for tensors on several devices, if one of them is "meta".
            if isinstance(value, Tensor) and value.device != first.device:
                raise ValueError(f"{name} must be on {first.device} like {self._names[0]}, got {value.device}")
        return self.outputs(*arguments)
