"""The operations as torch sees them: schemas, fakes that match the kernels, and compilation without graph breaks."""

from __future__ import annotations

import pytest
import torch
import torch._dynamo.testing
from cases import CALLS, OPS, SCHEMAS, compose_inputs, public_calls, rand, samples
from torch._subclasses.fake_tensor import FakeTensorMode

import promptkernels as pk


def permuted(argument):
    """Dense, but with dimensions permuted in memory: a fake that copies strides blindly is caught."""
    if not torch.is_tensor(argument) or argument.dim() < 2:
        return argument
    return argument.transpose(0, -1).contiguous().transpose(0, -1)


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_schema_is_a_promise(name):
    assert str(getattr(OPS, name).default._schema) == f"promptkernels::{name}{SCHEMAS[name]}"


def test_no_other_operation_is_registered():
    registered = {s.name for s in torch._C._jit_get_all_schemas() if s.name.startswith("promptkernels::")}
    assert registered == {f"promptkernels::{name}" for name in SCHEMAS}


@pytest.mark.parametrize("name", list(samples()))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_fakes_allocate_as_the_kernels_do(backend, name, dtype):
    operation = getattr(OPS, name).default
    for arguments in samples(dtype)[name]:
        for laid_out in (arguments, tuple(map(permuted, arguments))):
            real = operation(*laid_out)
            with FakeTensorMode() as mode:
                fake = operation(*(mode.from_tensor(a) if torch.is_tensor(a) else a for a in laid_out))
            real, fake = ((t,) if torch.is_tensor(t) else t for t in (real, fake))
            for ours, promised in zip(real, fake, strict=True):
                for fact in ("shape", "dtype", "device"):
                    assert getattr(ours, fact) == getattr(promised, fact), fact
                assert ours.stride() == promised.stride()


@pytest.mark.parametrize("name", list(samples()))
def test_opcheck(backend, name):
    for arguments in samples()[name]:
        torch.library.opcheck(getattr(OPS, name).default, arguments)


def training_step(prompts, reference, scale, shared, u, v, task_ids, embeds):
    """Every public function once, with a gradient through it."""
    similarity = pk.task_similarity(prompts, reference, metric="token_mean_dot", scale=scale)
    group = pk.select_group(similarity, 0)
    cosine, z = pk.task_similarity(prompts, reference, scale=scale, return_z=True)
    beyond_chance = group & (z[:, 0] > 0)
    merged = pk.merge_task_vectors(reference, prompts, scale, beyond_chance.float())
    phi = pk.svgd_direction(prompts, prompts.detach() * 0.5)
    composed = pk.compose_prompts(shared, u, v, task_ids)
    joined = pk.prepend_prompts(shared, u, v, task_ids, embeds)
    sums = similarity.sum() + cosine.sum() + merged.square().sum() + phi.square().sum()
    return sums + composed.mean() + joined.square().mean()


def step_inputs(tasks, rows):
    inputs = [rand(tasks, 5, 10), rand(5, 10, seed=1), rand(tasks, 5, seed=2), *compose_inputs((rows, 3, 5, 2, 10, 4))]
    return [t.requires_grad_() if t.is_floating_point() else t for t in inputs]


def test_compiles_without_graph_breaks_and_matches_eager(backend):
    torch._dynamo.reset()
    compiled = torch.compile(training_step, fullgraph=True, backend="aot_eager")
    eager_inputs, inputs = step_inputs(4, 6), step_inputs(4, 6)
    want, got = training_step(*eager_inputs), compiled(*inputs)
    torch.testing.assert_close(got, want)
    want.backward(), got.backward()
    for a, b in zip(inputs, eager_inputs, strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(a.grad, b.grad)


def test_dynamic_sizes_do_not_recompile():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(training_step, fullgraph=True, dynamic=True, backend=counter)
    for tasks, rows in [(11, 13), (12, 14), (17, 19)]:  # sizes equal by chance would be taken for the same symbol
        inputs = step_inputs(tasks, rows)
        torch.testing.assert_close(compiled(*inputs), training_step(*inputs))
    assert counter.frame_count == 1


@pytest.mark.parametrize("call", CALLS)
def test_a_second_size_does_not_recompile(call):
    """Every size of every argument is declared dynamic, which raises where the code pins one."""
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = None
    for size in [(7, 6, 33, 12), (11, 9, 40, 17), (5, 4, 65, 10)]:
        function, tensors = public_calls(*size)[call]
        arguments = {**function.keywords, **{name: t.requires_grad_() for name, t in tensors.items()}}
        want = torch.autograd.grad(function(**tensors).square().sum(), list(tensors.values()))
        for argument in arguments.values():
            if torch.is_tensor(argument):
                torch._dynamo.mark_dynamic(argument, list(range(argument.dim())))
        compiled = compiled or torch.compile(function.func, fullgraph=True, backend=counter)
        got = torch.autograd.grad(compiled(**arguments).square().sum(), list(tensors.values()))
        for g, w in zip(got, want, strict=True):
            torch.testing.assert_close(g, w)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_inductor():
    torch._dynamo.reset()
    compiled = torch.compile(training_step, fullgraph=True)
    inputs = step_inputs(4, 6)
    torch.testing.assert_close(compiled(*inputs), training_step(*inputs))
