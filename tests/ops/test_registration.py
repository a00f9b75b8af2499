"""The operations as torch sees them: schemas, fakes that match the kernels, and compilation without graph breaks."""

from __future__ import annotations

from functools import partial

import cases
import pytest
import torch
import torch._dynamo.testing
from cases import CALLS, hadamard, public_calls, rand
from torch._subclasses.fake_tensor import FakeTensorMode

import promptkernels as pk

OPS = torch.ops.promptkernels

SCHEMAS = {
    "task_similarity": "(Tensor prompts, Tensor? reference, Tensor? others, Tensor? scale, str metric, float eps) -> "
    "(Tensor similarity, Tensor left_norm, Tensor right_norm)",
    "task_similarity_z": "(Tensor prompts, Tensor? reference, Tensor? others, Tensor? scale, float eps) -> "
    "(Tensor similarity, Tensor left_norm, Tensor right_norm, Tensor z)",
    "task_similarity_backward": "(Tensor grad, Tensor prompts, Tensor? reference, Tensor? others, Tensor? scale, "
    "str metric, float eps, Tensor similarity, Tensor left_norm, Tensor right_norm, bool[4] needs) -> "
    "(Tensor d_prompts, Tensor d_reference, Tensor d_others, Tensor d_scale)",
    "svgd_direction": "(Tensor particles, Tensor scores, float bandwidth, str convention, "
    "bool per_token) -> (Tensor phi, Tensor kernel, Tensor h)",
    "svgd_direction_backward": "(Tensor grad, Tensor particles, Tensor scores, Tensor kernel, "
    "Tensor h, bool per_token) -> (Tensor d_particles, Tensor d_scores)",
    "compose_prompts": "(Tensor shared, Tensor u, Tensor v, Tensor task_ids) -> Tensor",
    "compose_prompts_backward": "(Tensor grad, Tensor shared, Tensor u, Tensor v, Tensor task_ids) -> "
    "(Tensor d_shared, Tensor d_u, Tensor d_v)",
    "prepend_prompts": "(Tensor shared, Tensor u, Tensor v, Tensor task_ids, Tensor input_embeds) -> Tensor",
    "merge_task_vectors": "(Tensor reference, Tensor prompts, Tensor? scale, Tensor? weights) -> Tensor",
    "merge_task_vectors_backward": "(Tensor grad, Tensor reference, Tensor prompts, Tensor? scale, Tensor? weights, "
    "bool[4] needs) -> (Tensor d_reference, Tensor d_prompts, Tensor d_scale, Tensor d_weights)",
    "select_group": "(Tensor similarity, int target) -> Tensor",
}


def samples(dtype=torch.float32):
    """Arguments of every registered operation, forward and backward."""
    rand = partial(cases.rand, dtype=dtype)
    prompts, reference, others, scale = rand(4, 3, 10), rand(3, 10, seed=1), rand(2, 3, 10, seed=2), rand(4, 3, seed=3)
    shared, u, v, task_ids, embeds = hadamard((6, 3, 5, 2, 10, 4), dtype)
    similarity = OPS.task_similarity(prompts, reference, others, scale, "cosine", 1e-8)
    _, kernel, h = OPS.svgd_direction(prompts, prompts, 0.0, "liu2016", True)
    long_grad = rand(6, 9, 10, seed=6)
    return {
        "task_similarity": [
            (prompts, None, None, None, "cosine", 1e-8),
            (prompts, reference, others, scale, "token_mean_cosine", 1e-8),
        ],
        "task_similarity_z": [(prompts, None, None, None, 1e-8), (prompts, reference, others, scale, 1e-8)],
        "task_similarity_backward": [
            (rand(4, 2), prompts, reference, others, scale, "cosine", 1e-8, *similarity, [True, True, True, True]),
            (rand(4, 2), prompts, reference, others, scale, "cosine", 1e-8, *similarity, [True, False, False, False]),
        ],
        "svgd_direction": [
            (prompts, prompts * 2, 0.0, "liu2016", False),
            (prompts, prompts * 2, 1.0, "fixed", True),
        ],
        "svgd_direction_backward": [(prompts, prompts * 3, prompts * 2, kernel, h, True)],
        "compose_prompts": [(shared, u, v, task_ids)],
        "compose_prompts_backward": [(long_grad[:, :5], shared, u, v, task_ids)],
        "prepend_prompts": [(shared, u, v, task_ids, embeds), (shared, u, v, task_ids, embeds.bfloat16())],
        "merge_task_vectors": [(reference, prompts, None, None), (reference, prompts, scale, rand(4))],
        "merge_task_vectors_backward": [
            (reference, reference * 2, prompts, scale, rand(4), [True, True, True, True]),
            (reference, reference * 2, prompts, None, None, [False, True, False, False]),
        ],
        "select_group": [(rand(5, 5), 2)],
    }


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
    inputs = [rand(tasks, 5, 10), rand(5, 10, seed=1), rand(tasks, 5, seed=2), *hadamard((rows, 3, 5, 2, 10, 4))]
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
