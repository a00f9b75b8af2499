"""First derivatives under `torch.func`; what the operations lack is refused by name, in every form."""

from __future__ import annotations

import matrix_formulas
import pytest
import torch
import torch.autograd.forward_ad as fwAD
from cases import CALLS, OPS, compose_inputs, public_calls, rand, samples
from torch import Tensor

import promptkernels as pk
from promptkernels.backends import registry
from promptkernels.nn import MultitaskPrompt
from promptkernels.ops.table import TABLE

F64 = torch.float64
FORWARD_MODE = "has no forward-mode derivative"
TRANSFORMED = r"has no derivative under torch.func"
SECOND = "has no second derivative"
INPUTS = [(call, name) for call in CALLS for name in public_calls()[call][1]]


def of_one(call: str, name: str, dtype: torch.dtype = torch.float32):
    """A public function as a function of one of its tensors, and that tensor."""
    function, tensors = public_calls(4, 3, 8, 5)[call]
    tensors = {key: tensor.to(dtype) for key, tensor in tensors.items()}
    return lambda tensor: function(**{**tensors, name: tensor}), tensors[name]


@pytest.mark.parametrize(("call", "name"), INPUTS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_tangent_on_any_input_is_refused(call, name, requires_grad):
    operation, tensor = of_one(call, name)
    with fwAD.dual_level(), pytest.raises(NotImplementedError, match=FORWARD_MODE):
        operation(fwAD.make_dual(tensor.clone().requires_grad_(requires_grad), tensor))
    with fwAD.dual_level():
        assert fwAD.unpack_dual(operation(tensor)).tangent is None


TRANSFORMS = {
    "jvp": (lambda f, x: torch.func.jvp(f, (x,), (x,)), FORWARD_MODE),
    "jacfwd": (lambda f, x: torch.func.jacfwd(f)(x), FORWARD_MODE),
    "linearize": (lambda f, x: torch.func.linearize(f, x), FORWARD_MODE),
    "jvp of vmap": (lambda f, x: torch.func.jvp(torch.func.vmap(f), (x[None],), (x[None],)), FORWARD_MODE),
    "jvp around grad": (
        lambda f, x: torch.func.jvp(lambda y: torch.func.grad(lambda z: (f(y) * z.sum()).sum())(x), (x,), (x,)),
        FORWARD_MODE,
    ),
    "jacobian": (
        lambda f, x: torch.autograd.functional.jacobian(f, x, strategy="forward-mode", vectorize=True),
        FORWARD_MODE,
    ),
    "jvp of vjp": (lambda f, x: torch.func.jvp(torch.func.vjp(f, x)[1], (f(x),), (f(x),)), FORWARD_MODE),
    "hessian": (lambda f, x: torch.func.hessian(lambda y: f(y).sum())(x), FORWARD_MODE),
    "grad of grad": (lambda f, x: torch.func.grad(lambda y: gradient_norm(f, y))(x), SECOND),
    "jacrev of jacrev": (lambda f, x: torch.func.jacrev(lambda y: gradient_norm(f, y))(x), SECOND),
    "backward of grad": (lambda f, x: gradient_norm(f, x.clone().requires_grad_()).backward(), SECOND),
}


def gradient_norm(f, x: Tensor) -> Tensor:
    return torch.func.grad(lambda y: f(y).square().sum())(x).square().sum()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("call", CALLS)
def test_transforms_beyond_a_first_derivative_are_refused(call, transform):
    apply, message = TRANSFORMS[transform]
    with pytest.raises(NotImplementedError, match=message):
        apply(*of_one(call, next(iter(public_calls()[call][1]))))


def factors_of(task_ids: Tensor) -> tuple[Tensor, ...]:
    shared, u, v, _, embeds = (t.double() for t in compose_inputs((len(task_ids), 4, 3, 2, 8, 4)))
    return shared, u, v, embeds


def of_formulas() -> dict[str, tuple]:
    """A public function, the formula that it computes, and their tensors."""
    start, prompts = rand(24, seed=1, dtype=F64), rand(5, 24, dtype=F64)
    task_ids = torch.tensor([3, 0, 3])
    *factors, embeds = factors_of(task_ids)
    return {
        "similarity": (pk.task_similarity, matrix_formulas.cosine, (prompts, start)),
        "svgd": (
            lambda x, s: pk.svgd_direction(x, s, bandwidth=9.0),
            lambda x, s: matrix_formulas.svgd(x, s, 9.0),
            (prompts, rand(5, 24, seed=2, dtype=F64)),
        ),
        "compose": (
            lambda *f: pk.compose_prompts(*f, task_ids),
            lambda *f: matrix_formulas.compose(*f, task_ids),
            tuple(factors),
        ),
        "prepend": (
            lambda s, u, v, e: pk.prepend_prompts(s, u, v, task_ids, e),
            lambda s, u, v, e: torch.cat([matrix_formulas.compose(s, u, v, task_ids), e], 1),
            (*factors, embeds),
        ),
        "merge": (
            lambda r, x, w: pk.merge_task_vectors(r[None], x[:, None], weights=w)[0],
            matrix_formulas.merge,
            (start, prompts, rand(5, seed=3, dtype=F64)),
        ),
    }


def of_leaves(f, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Gradients of torch itself, of a call in vmap."""
    leaves = [t.clone().requires_grad_() for t in tensors]
    torch.func.vmap(f)(*(torch.stack([leaf, 2 * leaf]) for leaf in leaves)).square().sum().backward()
    return tuple(leaf.grad for leaf in leaves)


FIRST = {
    "grad": lambda f, x: torch.func.grad(lambda *y: f(*y).square().sum(), tuple(range(len(x))))(*x),
    "vjp": lambda f, x: torch.func.vjp(f, *x)[1](f(*x)),
    "jacrev": lambda f, x: torch.func.jacrev(f, tuple(range(len(x))))(*x),
    "jacrev in chunks": lambda f, x: torch.func.jacrev(f, tuple(range(len(x))), chunk_size=7)(*x),
    "vmap of grad": lambda f, x: torch.func.vmap(lambda *y: FIRST["grad"](f, y))(*(torch.stack([t, -t]) for t in x)),
    "grad of vmap": lambda f, x: FIRST["grad"](lambda *y: torch.func.vmap(f)(*(torch.stack([t, 2 * t]) for t in y)), x),
    "vmap of leaves": of_leaves,
}


@pytest.mark.parametrize("transform", FIRST)
@pytest.mark.parametrize("name", of_formulas())
def test_first_derivatives_under_transforms_are_those_of_the_formula(name, transform):
    function, formula, tensors = of_formulas()[name]
    got, want = (FIRST[transform](each, tensors) for each in (function, formula))
    assert len(got) == len(want) == len(tensors)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("call", "name"), INPUTS)
def test_every_input_has_a_derivative_under_transforms(call, name):
    operation, x = of_one(call, name, F64)
    weight, leaf = rand(*operation(x).shape, seed=7, dtype=F64), x.clone().requires_grad_()
    (want,) = torch.autograd.grad((operation(leaf) * weight).sum(), leaf)
    torch.testing.assert_close(torch.func.grad(lambda y: (operation(y) * weight).sum())(x), want)


def test_other_results_have_no_derivative_under_transforms():
    x, seen = rand(4, 3, 8), []

    def total(x: Tensor) -> Tensor:
        similarity, z = pk.task_similarity(x, return_z=True)
        phi, (kernel, h) = pk.svgd_direction(x, x, return_kernel=True)
        seen.extend(out.requires_grad for out in (similarity, phi, z, kernel, h))
        return similarity.sum() + phi.sum()

    torch.func.grad(total)(x)
    assert seen == [True, True, False, False, False]


def test_a_vjp_comes_from_the_backend_of_the_forward_call(monkeypatch):
    called, functions = [], registry.BACKENDS["reference"].functions
    original = functions["task_similarity_backward"]
    monkeypatch.setitem(functions, "task_similarity_backward", lambda *a: called.append(1) or original(*a))
    x = rand(4, 3, 8)
    with pk.use_backend("reference"):
        similarity, vjp = torch.func.vjp(pk.task_similarity, x)
    vjp(similarity)
    assert len(called) == 1
    torch.func.vmap(vjp)(torch.stack([similarity, similarity]))
    assert len(called) == 3


def raw_calls() -> dict[str, tuple]:
    """Every differentiable registered operation with its arguments, the first of which is a floating tensor."""
    return {name: calls[0] for name, calls in samples().items() if TABLE[name].differentiable}


@pytest.mark.parametrize("name", raw_calls())
def test_raw_operations_refuse_too(name):
    arguments = raw_calls()[name]
    operation, first = getattr(OPS, name), arguments[0]

    def total(tensor: Tensor) -> Tensor:
        out = operation(tensor, *arguments[1:])
        return sum(t.sum() for t in out) if isinstance(out, tuple) else out.sum()

    with pytest.raises(NotImplementedError, match=f"{name} {FORWARD_MODE}"):
        torch.func.jvp(total, (first,), (first,))
    with pytest.raises(NotImplementedError, match=f"{name} {TRANSFORMED}"):
        torch.func.grad(total)(first)
    for place, tensor in enumerate(arguments):
        if isinstance(tensor, Tensor) and tensor.is_floating_point():
            with fwAD.dual_level(), pytest.raises(NotImplementedError, match=f"{name} {FORWARD_MODE}"):
                operation(*arguments[:place], fwAD.make_dual(tensor, tensor), *arguments[place + 1 :])
    batched = torch.func.vmap(total)(torch.stack([first, first * 2]))
    torch.testing.assert_close(batched, torch.stack([total(first), total(first * 2)]))


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_code_refuses_tangents(compiler):
    torch._dynamo.reset()
    x = rand(4, 3, 8)
    compiled = torch.compile(lambda x: pk.task_similarity(x), backend=compiler)
    with fwAD.dual_level(), pytest.raises(NotImplementedError, match=FORWARD_MODE):
        compiled(fwAD.make_dual(x, x))


def test_modules_refuse_too():
    module, task_ids, embeds = MultitaskPrompt(4, 3, 8), torch.tensor([0, 3]), rand(2, 4, 8)
    with fwAD.dual_level(), pytest.raises(NotImplementedError, match=f"prepend_prompts {FORWARD_MODE}"):
        module.prepend(task_ids, fwAD.make_dual(embeds, embeds))


def test_modules_have_derivatives_under_transforms():
    module, task_ids = MultitaskPrompt(4, 3, 8), torch.tensor([0, 3])
    weights = dict(module.named_parameters())
    got = torch.func.grad(lambda w: torch.func.functional_call(module, w, (task_ids,)).square().sum())(weights)
    module(task_ids).square().sum().backward()
    for name, weight in weights.items():
        torch.testing.assert_close(got[name], weight.grad)


@pytest.mark.parametrize("call", CALLS)
def test_transforms_of_what_needs_no_derivative_are_exact(call):
    operation, x = of_one(call, next(iter(public_calls()[call][1])), F64)
    want, one = operation(x), x.new_tensor(1.0)
    exact = {
        "vmap": torch.func.vmap(operation)(torch.stack([x, x]))[1],
        "functionalize": torch.func.functionalize(operation)(x),
        "jvp": torch.func.jvp(lambda y: operation(x) * y, (one,), (one,))[1],
        "detached": torch.func.jvp(lambda y: operation(x * y.detach()) * y, (one,), (one,))[1],
    }
    for name, got in exact.items():
        torch.testing.assert_close(got, want, msg=name)
    gradient = torch.func.grad(lambda y: (operation(x) * y).sum())(one)
    torch.testing.assert_close(gradient, want.sum())


def penalised(operation, x: Tensor, weight: Tensor) -> Tensor:
    """f + |f'|^2, whose gradient needs the second derivative of the operation."""
    first = (operation(x) * weight).sum()
    (gradient,) = torch.autograd.grad(first, x, create_graph=True)
    return first + gradient.square().sum()


def by_differences(operation, x: Tensor, weight: Tensor, along: Tensor) -> Tensor:
    def value(at: Tensor) -> Tensor:
        return penalised(operation, at.detach().requires_grad_(), weight).detach()

    return (value(x + 1e-6 * along) - value(x - 1e-6 * along)) / 2e-6


LINEAR = {
    *((call, name) for call in ("compose", "prepend", "merge") for name in public_calls()[call][1]),
    ("svgd", "scores"),
    ("svgd per token", "scores"),
}


@pytest.mark.parametrize(("call", "name"), INPUTS)
def test_a_gradient_penalty_is_right_or_refused(call, name):
    """If the operation is linear in the input, its gradient is constant and the penalty adds nothing."""
    operation, x = of_one(call, name, F64)
    weight, along = rand(*operation(x).shape, seed=7, dtype=F64), rand(*x.shape, seed=8, dtype=F64)
    want = by_differences(operation, x, weight, along)
    first = (torch.autograd.grad((operation(y := x.clone().requires_grad_()) * weight).sum(), y)[0] * along).sum()
    linear = bool((want - first).abs() <= 1e-4 * (1 + want.abs()))
    assert linear == ((call, name) in LINEAR)
    x.requires_grad_()
    total = penalised(operation, x, weight)
    if linear:
        torch.testing.assert_close((torch.autograd.grad(total, x)[0] * along).sum(), first)
    else:
        for ask in (lambda: torch.autograd.grad(total, x, retain_graph=True), lambda: total.backward()):
            with pytest.raises(NotImplementedError, match="has no second derivative"):
                ask()
