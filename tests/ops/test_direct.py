"""Calls with plain tensors skip torch's dispatcher; calls that a mode, transform, tracer or profiler sees do not."""

from __future__ import annotations

import cases
import pytest
import torch
from cases import CALLS, compose_inputs, public_calls, rand
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import promptkernels as pk
from promptkernels.ops.table import TABLE

NAMES = {getattr(pk, name): name for name in pk.__all__} | {cases.similarity_plus_z: "task_similarity_z"}
EVERY = (*CALLS, "group")


def forward(call: str):
    """A public function of its tensors without their gradients, those tensors, and the operation that torch knows."""
    if call == "group":
        return lambda similarity: pk.select_group(similarity, 1), (rand(4, 4),), "select_group"
    function, tensors = public_calls(4, 3, 8, 5)[call]
    tensors = {**tensors, **{key: value for key, value in function.keywords.items() if torch.is_tensor(value)}}
    return (
        lambda *values: function(**dict(zip(tensors, values, strict=True))),
        (*tensors.values(),),
        NAMES[function.func],
    )


class Seen(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class SeenFunctions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


class Curious(torch.Tensor):
    """Sees functions that are called with it."""

    names: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        Curious.names.append(str(function))
        return super().__torch_function__(function, types, args, kwargs or {})


class Wrapper(torch.Tensor):
    """A wrapper that sees operations below autograd and has no memory itself."""

    names: list[str] = []  # noqa: RUF012
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner):
        wrapper = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        wrapper.inner = inner
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        Wrapper.names.append(str(function))
        out = function(*(a.inner if isinstance(a, Wrapper) else a for a in args), **(kwargs or {}))
        return Wrapper(out) if function is torch.ops.aten.detach.default else out


def sees(names: list[str], operation: str) -> bool:
    return any(f"promptkernels.{operation}" in name for name in names)


@pytest.fixture
def no_dispatcher(monkeypatch):
    for operation in TABLE.values():
        monkeypatch.setattr(operation, "overload", lambda *_: pytest.fail("went through the dispatcher"))


@pytest.mark.parametrize("call", EVERY)
def test_plain_calls_skip_it(no_dispatcher, call):
    function, tensors, _ = forward(call)
    want = function(*tensors)
    parameters = [torch.nn.Parameter(t) if t.is_floating_point() else t for t in tensors]
    recorded = function(*parameters)
    if recorded.requires_grad:
        recorded.sum().backward()
    assert recorded.requires_grad == (call != "group") and torch.equal(recorded.detach(), want)
    for context in (torch.no_grad(), torch.inference_mode(), torch.autocast(want.device.type, torch.bfloat16)):
        with context:
            assert torch.equal(function(*tensors), want)


@pytest.mark.parametrize("call", EVERY)
def test_modes_see_it(call):
    function, tensors, name = forward(call)
    with Seen() as operations:
        function(*tensors)
    with SeenFunctions() as functions:
        function(*tensors)
    assert sees(operations.names, name) and sees(functions.names, name)


@pytest.mark.parametrize("call", CALLS)
def test_modes_see_the_way_back(call):
    function, tensors, name = forward(call)
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in tensors]
    out = function(*leaves)
    with Seen() as operations:
        out.sum().backward()
    assert sees(operations.names, name.replace("prepend", "compose").removesuffix("_z") + "_backward")


@pytest.mark.parametrize("kind", [Curious, Wrapper])
@pytest.mark.parametrize("call", EVERY)
def test_classes_of_tensors_see_it(call, kind):
    """At any place: the first tensor, or the last."""
    function, tensors, name = forward(call)
    make = Wrapper if kind is Wrapper else lambda t: t.as_subclass(Curious)
    for place in (0, len(tensors) - 1):
        kind.names.clear()
        out = function(*tensors[:place], make(tensors[place]), *tensors[place + 1 :])
        assert sees(kind.names, name)
        torch.testing.assert_close(out.as_subclass(torch.Tensor), function(*tensors))


@pytest.mark.parametrize("call", EVERY)
def test_tracers_record_it(call):
    function, tensors, name = forward(call)
    assert f"promptkernels.{name}" in make_fx(function)(*tensors).code
    assert f"promptkernels.{name}" in make_fx(function, pre_dispatch=True)(*tensors).code
    traced = torch.jit.trace(function, tensors, check_trace=False)
    assert f"promptkernels::{name}" in str(traced.graph)

    class Module(torch.nn.Module):
        def forward(self, *values):
            return function(*values)

    exported = torch.export.export(Module(), tensors)
    assert f"promptkernels.{name}" in exported.graph_module.code


@pytest.mark.parametrize("call", EVERY)
def test_fake_tensors_stay_fake(call):
    function, tensors, _ = forward(call)
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in tensors]
        inside = function(*fakes)
    for out in (inside, function(*fakes)):
        assert isinstance(out, FakeTensor) and out.shape == function(*tensors).shape


@pytest.mark.parametrize("call", EVERY)
def test_profilers_list_it(call):
    function, tensors, name = forward(call)
    with torch.profiler.profile() as profile:
        function(*tensors)
    assert f"promptkernels::{name}" in {event.name for event in profile.events()}


@pytest.mark.parametrize("call", CALLS)
def test_memory_that_is_read_in_another_way(call):
    """The memory of a negative view has the opposite signs, and a zero tensor has no memory."""
    function, tensors, _ = forward(call)
    want = function(*tensors)
    negative = [torch._neg_view(-t) if t.is_floating_point() else t for t in tensors]
    torch.testing.assert_close(function(*negative), want)
    for place, tensor in enumerate(tensors):
        if tensor.is_floating_point():
            zeros = torch._efficientzerotensor(tensor.shape), torch.zeros_like(tensor)
            got, want = (function(*tensors[:place], zero, *tensors[place + 1 :]) for zero in zeros)
            torch.testing.assert_close(got, want)


def test_a_wrapper_of_torch_func_outlives_its_level():
    kept = []
    x = rand(4, 3, 8)
    torch.func.vmap(lambda row: kept.append(row) or row)(x[None])
    with pytest.raises(RuntimeError):  # torch warns about this for any operation
        kept[0] + 1
    with pytest.raises(RuntimeError):
        pk.task_similarity(kept[0])


def test_what_hooks_made_of_saved_tensors_is_checked():
    """A kernel would read outside of them."""
    shared, u, v, task_ids, _ = compose_inputs((6, 3, 5, 2, 10, 4))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t[..., :1]):
        out = pk.compose_prompts(shared.requires_grad_(), u, v, task_ids)
    with pytest.raises(ValueError, match="must have shape"):
        out.sum().backward()
