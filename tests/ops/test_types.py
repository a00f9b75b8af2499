"""Element types: one argument unlike the others, 16-bit inputs and their gradients, in the accuracy of the widest."""

from __future__ import annotations

import formulas
import pytest
import torch
from cases import CALLS, DTYPES, ROUNDED_OUTPUT, assert_close, ids, public_calls, rand

import promptkernels as pk

F32, F64 = torch.float32, torch.float64


def both(function, tensors):
    """Result and gradients, and the float64 reference's on the very same values."""

    def run(tensors):
        leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
        out = function(**leaves)
        grad = rand(*out.shape, seed=9).bfloat16().to(out.dtype)  # exact in every type
        return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), grad)]

    got = run(tensors)
    with pk.use_backend("reference"):
        want = run({name: t.double() for name, t in tensors.items()})
    return got, want


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_one_type(backend, call, dtype):
    """Computed in float32 at least, and every gradient is rounded to the type of its argument once."""
    function, tensors = public_calls()[call]
    got, want = both(function, {name: t.to(dtype) for name, t in tensors.items()})
    assert got[0].dtype == (dtype if call == "prepend" or dtype == F64 else F32)
    for g, w in zip(got[1:], want[1:], strict=True):
        assert g.dtype == dtype
        assert_close(g, w, 5e-6 if dtype == F32 else 1e-11 if dtype == F64 else ROUNDED_OUTPUT[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, F64], ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_one_argument_of_another_type(backend, call, dtype):
    function, tensors = public_calls()[call]
    for odd in tensors:
        mixed = {name: t.to(dtype) if name == odd else t for name, t in tensors.items()}
        got, want = both(function, mixed)
        wide = dtype == F64 and odd != "input_embeds"
        if call == "prepend":
            assert got[0].dtype == mixed["input_embeds"].dtype
        else:
            assert got[0].dtype == (F64 if wide else F32)
        for g, w, name in zip(got, want, ("out", *mixed), strict=True):
            stored = got[0].dtype if name == "out" else mixed[name].dtype
            assert name == "out" or g.dtype == stored
            computed = 1e-11 if wide and got[0].dtype == F64 else 5e-6
            assert_close(g, w, max(computed, ROUNDED_OUTPUT[stored]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_select_group(backend, dtype):
    for seed in range(10):
        similarity = rand(9, 9, seed=seed, dtype=dtype)
        target = int(ids(1, 9, seed=seed))
        got = set(pk.select_group(similarity, target).nonzero().flatten().tolist())
        assert got == formulas.select_group(similarity.double().cpu().numpy(), target) | {target}
