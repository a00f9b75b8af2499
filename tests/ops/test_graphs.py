"""Captured, parallel and compiled calls on a GPU give the same bits as an eager call."""

from __future__ import annotations

import pytest
import torch
from cases import CALLS, public_calls

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROWS = [7, 64, 70]  # 70: more rows than the kernels hold


def with_gradients(function, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    out = function(**leaves)
    incoming = torch.linspace(-1, 1, out.numel()).view_as(out)
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), incoming)]


def changed(tensors: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(seed)
    return {
        name: tensor + torch.randn(tensor.shape, generator=generator, device="cpu").to(tensor)
        for name, tensor in tensors.items()
    }


@pytest.fixture
def on_gpu(backend):
    if torch.get_default_device().type != "cuda":
        pytest.skip("not on a GPU")
    if backend == "reference":
        pytest.skip("plain torch reads task ids on the host")
    return backend


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("name", CALLS)
def test_a_captured_call_is_replayed_with_new_inputs(on_gpu, name, rows):
    function, tensors = public_calls(tasks=rows)[name]
    static = {key: tensor.clone() for key, tensor in tensors.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        with_gradients(function, static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = with_gradients(function, static)
    for seed in range(3):
        new = changed(tensors, seed)
        for key, tensor in static.items():
            tensor.copy_(new[key])
        graph.replay()
        for got, want in zip(outputs, with_gradients(function, new), strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("name", CALLS)
def test_two_streams_a_hundred_times(on_gpu, name):
    function, tensors = public_calls(tasks=33, length=20, hidden=256)[name]
    inputs = [changed(tensors, seed) for seed in range(2)]
    alone = [function(**each) for each in inputs]
    torch.cuda.synchronize()
    streams, outputs = [torch.cuda.Stream() for _ in range(2)], [[], []]
    for _ in range(100):
        for place, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                outputs[place].append(function(**inputs[place]))
    torch.cuda.synchronize()
    for place, want in enumerate(alone):
        assert all(torch.equal(got, want) for got in outputs[place])


@pytest.mark.parametrize("rows", ROWS)
def test_compiled_into_graphs(on_gpu, rows):
    """CUDA graphs of torch.compile, with other work between the calls."""
    calls = public_calls(tasks=rows)

    def every(inputs: list[dict[str, torch.Tensor]]) -> list[torch.Tensor]:
        return [function(**each) for (function, _), each in zip(calls.values(), inputs, strict=True)]

    quick = torch.compile(every, fullgraph=True, mode="reduce-overhead")
    for seed in range(6):
        inputs = [changed(tensors, seed) for _, tensors in calls.values()]
        torch.compiler.cudagraph_mark_step_begin()
        with torch.no_grad():
            got, want = [out.clone() for out in quick(inputs)], every(inputs)
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
        torch.full((1 << 20,), float("nan"))  # takes memory that was given back
