"""The z score with the cosine: its formula, its meaning, and degenerate cases."""

from __future__ import annotations

from itertools import product

import formulas
import numpy as np
import pytest
import torch
from cases import DTYPES, LAYOUTS, assert_close, rand, sizes, strided

import promptkernels as pk

F64 = torch.float64

# One token and many; one column, odd numbers of them and many; more rows than a tile holds.
SHAPES = [(1, 1, 1), (2, 1, 5), (3, 7, 1), (4, 5, 65), (5, 70, 7), (17, 3, 129), (33, 40, 9), (2, 3, 4097)]
SHAPES.append((6, 100, 768))


def z_of(*arguments, **options):
    return pk.task_similarity(*arguments, **options, return_z=True)[1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", sizes(SHAPES))
def test_formula(backend, shape, dtype):
    # A shared direction, as tuned prompts have one: where products of a token cancel, float32 keeps few digits of them.
    common = rand(*shape[1:], seed=5)
    prompts, reference = (rand(*shape, seed=1) + common).to(dtype), (0.1 * rand(*shape[1:], seed=2)).to(dtype)
    others, scale = (rand(4, *shape[1:], seed=3) + common).to(dtype), rand(*shape[:2], seed=4, dtype=dtype)
    tolerance = 1e-11 if dtype == F64 else 5e-6
    for args in [(prompts,), (prompts, reference), (prompts, reference, others), (prompts, reference, others[:1])]:
        for factor in (None, scale):
            similarity, z = pk.task_similarity(*args, scale=factor, return_z=True)
            assert z.dtype == similarity.dtype == (F64 if dtype == F64 else torch.float32)
            assert_close(z, torch.from_numpy(formulas.sign_flip_z(*args, scale=factor)).to(z.device), tolerance)
            want = torch.from_numpy(formulas.task_similarity(*args, scale=factor)).to(z.device)
            assert_close(similarity, want, tolerance)


def test_more_tokens_than_a_block_has_threads(backend):
    prompts = rand(2, 300, 3)
    assert_close(z_of(prompts), torch.from_numpy(formulas.sign_flip_z(prompts)).to(prompts.device), 5e-6)


def test_a_score_worked_out_by_hand(backend):
    """Products of the tokens: 1, 2, 2 and 1, -2, 2; of a prompt with itself 1, 4, 4."""
    prompts, others = torch.tensor([[[1.0], [2], [2]]]), torch.tensor([[[1.0], [1], [1]], [[1], [-1], [1]]])
    np.testing.assert_allclose(z_of(prompts, others=others).cpu(), [[5 / 3, 1 / 3]], rtol=1e-6)
    np.testing.assert_allclose(z_of(prompts).cpu(), [[9 / np.sqrt(33)]], rtol=1e-6)


def test_over_all_signs_of_the_tokens_the_mean_is_0_and_the_variance_1(backend):
    """Every flipped prompt is a row: the exact distribution under the null hypothesis."""
    prompt, other = rand(5, 6, dtype=F64), rand(1, 5, 6, seed=1, dtype=F64)
    signs = torch.tensor(list(product([-1.0, 1.0], repeat=5)), dtype=F64)
    z = z_of(prompt.expand(32, 5, 6), others=other, scale=signs)
    assert abs(float(z.mean())) < 1e-12 and float(z.square().mean()) == pytest.approx(1)


def test_tokens_that_agree_alike_reach_the_largest_score(backend):
    prompts = torch.ones(2, 9, 4) * torch.tensor([1.0, -2.0])[:, None, None]
    assert_close(z_of(prompts), torch.tensor([[3.0, -3.0], [-3.0, 3.0]]), 1e-6)


def test_close_to_the_start(backend):
    """Task vectors a thousandth the size of their start: the start is subtracted before anything is rounded."""
    start = rand(20, 64, seed=1)
    common = 1e-3 * rand(20, 64, seed=2)
    prompts = start + common + 1e-3 * rand(6, 20, 64, seed=3)
    assert_close(z_of(prompts, start), torch.from_numpy(formulas.sign_flip_z(prompts, start)).to(start.device), 2e-6)


@pytest.mark.parametrize("size", [1e-12, 1e9])
def test_size_of_the_task_vectors_does_not_matter(backend, size):
    """Squares of the products would be 0 or infinite in float32."""
    prompts, others = rand(3, 4, 10) + 1, rand(2, 4, 10, seed=1) + 1
    for right in (None, others):
        got = z_of(prompts * size, others=None if right is None else right * size)
        assert_close(got, z_of(prompts, others=right), 1e-5)


def test_zero_task_vector_has_score_0(backend):
    prompts = rand(4, 3, 5)
    start = prompts[1].clone()
    z = z_of(prompts, start)
    assert torch.equal(z[1], torch.zeros(4)) and torch.equal(z[:, 1], torch.zeros(4))
    assert z.diagonal()[[0, 2, 3]].min() >= 1
    across = torch.zeros(2, 3, 5)
    across[0, 0], across[1, 1] = 1, 1  # neither is zero, but no token is in both
    assert z_of(across)[0, 1] == 0


def test_more_token_products_than_triton_holds_at_once(backend, monkeypatch):
    if backend != "triton":
        pytest.skip("the other backends have no such limit")
    from promptkernels.backends.triton_kernels import similarity

    prompts, others = rand(4, 3, 5), rand(2, 3, 5, seed=1)
    want = [z_of(prompts, others=right) for right in (None, others)]
    monkeypatch.setattr(similarity, "MOST_TOKEN_PRODUCTS", 1)
    monkeypatch.setattr(similarity, "launch", lambda *_, **__: pytest.fail("a kernel was launched"))
    for right, expected in zip((None, others), want, strict=True):
        assert_close(z_of(prompts, others=right), expected, 1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_propagate(backend, bad):
    prompts, others = rand(3, 4, 70), rand(2, 4, 70, seed=1)
    prompts[1, 2, 65] = bad
    for right in (None, others, others[:1]):
        z = z_of(prompts, others=right)
        assert z[1].isnan().all() and z[0, 0].isfinite() and z[2, 0].isfinite()


def test_similarity_keeps_its_gradient_and_z_has_none(backend):
    def leaves():
        tensors = {"prompts": rand(4, 3, 5), "reference": rand(3, 5, seed=1), "others": rand(2, 3, 5, seed=2)}
        tensors["scale"] = rand(4, 3, seed=3)
        return {name: tensor.requires_grad_() for name, tensor in tensors.items()}

    weight, plain, beside = rand(4, 2, seed=4), leaves(), leaves()
    similarity, z = pk.task_similarity(**beside, return_z=True)
    assert similarity.requires_grad and not z.requires_grad
    (similarity * weight).sum().backward()
    (pk.task_similarity(**plain) * weight).sum().backward()
    for name in plain:
        assert_close(beside[name].grad, plain[name].grad, 1e-6)
    with torch.no_grad():
        assert not any(out.requires_grad for out in pk.task_similarity(**beside, return_z=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(backend, layout):
    tensors = {"prompts": rand(5, 6, 33), "reference": rand(6, 33, seed=1), "others": rand(3, 6, 33, seed=2)}
    viewed = {name: strided(tensor, layout) for name, tensor in tensors.items()}
    plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in viewed.items()}
    z = z_of(**viewed)
    assert z.is_contiguous()
    assert_close(z, z_of(**plain), 1e-6)
