"""The CUDA backend around its kernels, in plain torch: many rows, and the devices that a build supports."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from cases import assert_close, rand

import promptkernels as pk
from promptkernels import reference
from promptkernels.backends import cuda, many_rows, registry
from promptkernels.backends.cuda import too_old, unserved

F64 = torch.float64


def in_double(function, *arguments):
    return function(*(a.double() if torch.is_tensor(a) else a for a in arguments))


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("metric", ["cosine", "token_mean_cosine", "token_mean_dot"])
@pytest.mark.parametrize("others", [None, 3])
def test_similarity_of_many_rows(dtype, metric, others):
    """Three chunks of columns, the last one short."""
    start, prompts = rand(3, 1501, seed=1, dtype=dtype), rand(70, 3, 1501, dtype=dtype)
    right = None if others is None else rand(others, 3, 1501, seed=2, dtype=dtype)
    scale = rand(70, 3, seed=3, dtype=torch.float64 if dtype == F64 else torch.float32)
    arguments = prompts, start, right, scale, metric, 1e-8
    for got, want in zip(
        many_rows.task_similarity(*arguments), in_double(reference.task_similarity, *arguments), strict=True
    ):
        assert got.dtype == (F64 if dtype == F64 else torch.float32)
        assert_close(got, want, 1e-12 if dtype == F64 else 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("others", [None, 3])
@pytest.mark.parametrize("tokens_at_once", [2, 100])
def test_z_of_many_rows(monkeypatch, dtype, others, tokens_at_once):
    """Two tokens and the one that is left, or all at once."""
    right = None if others is None else rand(others, 3, 401, seed=2, dtype=dtype)
    monkeypatch.setattr(many_rows, "TOKEN_PRODUCTS", tokens_at_once * 70 * (others or 70))
    scale = rand(70, 3, seed=3, dtype=torch.float64 if dtype == F64 else torch.float32)
    arguments = rand(70, 3, 401, dtype=dtype), rand(3, 401, seed=1, dtype=dtype), right, scale, 1e-8
    for got, want in zip(
        many_rows.task_similarity_z(*arguments), in_double(reference.task_similarity_z, *arguments), strict=True
    ):
        assert got.dtype == (F64 if dtype == F64 else torch.float32)
        assert_close(got, want, 1e-12 if dtype == F64 else 2e-6)


@pytest.mark.parametrize("convention", ["fixed", "liu2016", "numpyro", "blackjax"])
@pytest.mark.parametrize("per_token", [False, True])
def test_svgd_of_many_close_particles(convention, per_token):
    particles = rand(1, 2, 2100, seed=1) + 0.01 * rand(70, 2, 2100)
    arguments = particles, rand(70, 2, 2100, seed=2), 0.3, convention, per_token
    want = in_double(reference.svgd_direction, *arguments)
    for got, expected in zip(many_rows.svgd_direction(*arguments), want, strict=True):
        # NumPyro adds the machine epsilon of the type, which differs between the two; here it is 1e-6 of h.
        assert_close(got, expected, 3e-6 if convention == "numpyro" else 1e-6)


def test_degenerate_rows_among_many():
    prompts = rand(66, 2, 5)
    prompts[1] = 0
    prompts[2] = float("nan")
    similarity, _, _ = many_rows.task_similarity(prompts, None, None, None, "cosine", 1e-8)
    z = many_rows.task_similarity_z(prompts, None, None, None, 1e-8)[3]
    assert not z[1, 3:].any() and z[2].isnan().all() and z[0, 3:].isfinite().all()
    assert not similarity[1, 3:].any() and similarity[2].isnan().all() and similarity[0, 3:].isfinite().all()
    same = rand(1, 2, 5).repeat(66, 1, 1)
    phi, kernel, h = many_rows.svgd_direction(same, prompts[3:].new_ones(66, 2, 5), 0.0, "liu2016", False)
    assert h == 0 and bool((kernel == 1).all()) and torch.allclose(phi, torch.ones_like(phi))


def precision() -> dict[str, str]:
    """torch's settings of float32 products, through its old interface and, since 2.9, the new one."""
    try:
        settings = {"process": torch.get_float32_matmul_precision()}
    except RuntimeError:  # the two interfaces disagree
        settings = {"process": "mixed"}
    if hasattr(torch.backends, "fp32_precision"):
        settings["all"] = torch.backends.fp32_precision
        settings["cuda"] = torch.backends.cuda.matmul.fp32_precision
        settings["cpu"] = torch.backends.mkldnn.matmul.fp32_precision
    return settings


@pytest.fixture
def reset_precision():
    yield
    for owner in (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        if hasattr(owner, "fp32_precision"):
            owner.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for owner in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        if hasattr(owner, "fp32_precision"):
            owner.fp32_precision = "none"


@pytest.mark.parametrize("value", ["high", "medium"])
def test_precision_of_the_process_is_restored(reset_precision, value):
    torch.set_float32_matmul_precision(value)
    before = precision()
    with many_rows.full_precision():
        assert torch.get_float32_matmul_precision() == "highest"
    assert precision() == before


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch 2.9 brought these settings")
@pytest.mark.parametrize("where", ["all", "cuda", "cpu"])
@pytest.mark.parametrize("process", ["highest", "high"])
def test_precision_of_a_backend_is_restored(reset_precision, where, process):
    """transformers sets it; torch then refuses to read its old setting."""
    matmul = {"all": torch.backends, "cuda": torch.backends.cuda.matmul, "cpu": torch.backends.mkldnn.matmul}[where]
    torch.set_float32_matmul_precision(process)
    matmul.fp32_precision = "tf32"
    before = precision()
    with many_rows.full_precision():
        inside = precision()
        assert inside["process"] == "highest" and "tf32" not in (inside["cuda"], inside["cpu"])
    assert precision() == before


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="torch 2.9 brought these settings")
def test_a_setting_for_all_backends_still_reaches_the_products(reset_precision):
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.fp32_precision = "tf32"
    with many_rows.full_precision():
        pass
    torch.backends.fp32_precision = "ieee"
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"


def test_backend_takes_more_rows_than_its_kernels(backend):
    if not backend.startswith("cuda"):
        pytest.skip("the other backends have no such limit")
    prompts, others = rand(40, 2, 9, requires_grad=True), rand(30, 2, 9, seed=1)
    similarity, z = pk.task_similarity(prompts, others=others, return_z=True)
    phi = pk.svgd_direction(prompts, rand(40, 2, 9, seed=2))
    (gradient,) = torch.autograd.grad(similarity.sum() + phi.sum(), prompts)
    with pk.use_backend("reference"):
        double = prompts.detach().double().requires_grad_()
        want, want_z = pk.task_similarity(double, others=others.double(), return_z=True)
        want_phi = pk.svgd_direction(double, rand(40, 2, 9, seed=2).double())
        (want_gradient,) = torch.autograd.grad(want.sum() + want_phi.sum(), double)
    assert_close(similarity, want, 2e-6)
    assert_close(z, want_z, 2e-6)
    assert_close(phi, want_phi, 2e-6)
    assert_close(gradient, want_gradient, 5e-6)


@pytest.mark.parametrize("rows", [22, 70])  # of 22, the backward pass of SVGD has 66
def test_autocast_changes_no_bit_of_many_rows(backend, rows):
    prompts, scores = rand(rows, 2, 9, requires_grad=True), rand(rows, 2, 9, seed=2)

    def everything() -> list[torch.Tensor]:
        similarity, phi = pk.task_similarity(prompts), pk.svgd_direction(prompts, scores)
        (gradient,) = torch.autograd.grad(similarity.square().sum() + phi.square().sum(), prompts)
        return [similarity, phi, gradient]

    want = everything()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast(prompts.device.type, dtype):
            similarity, phi = pk.task_similarity(prompts), pk.svgd_direction(prompts, scores)
            outside = torch.autograd.grad((similarity * 1, phi * 1), prompts, (2 * want[0], 2 * want[1]))
        for got, expected in zip((similarity, phi, *outside), want, strict=True):
            assert got.dtype == torch.float32 and torch.equal(got, expected)


@pytest.mark.parametrize(
    ("architectures", "capability", "refused"),
    [
        ("80-real 90-real 120", (8, 0), False),
        ("80-real 90-real 120", (8, 9), False),  # machine code of the same major version
        ("80-real 90-real 120", (7, 5), True),
        ("80-real 90-real 120", (10, 0), True),
        ("80-real 90-real 120", (12, 1), False),
        ("80-real 90-real 120", (13, 0), False),  # from PTX
        ("80-real 120-real", (13, 0), True),
        ("86-real", (8, 0), True),
        ("75-virtual", (9, 0), False),
        ("90a-real", (9, 0), False),
        ("90a", (9, 1), True),  # for this very device
        ("90a", (10, 0), True),
        ("80-real 90a", (8, 6), False),
        ("100f-real", (10, 3), False),  # its family
        ("100f", (12, 0), True),
        ("native", (8, 9), False),  # the device of the machine that built it, most likely
        ("all", (12, 0), False),
    ],
)
def test_devices_that_a_build_serves(architectures, capability, refused):
    assert unserved(architectures, capability) is refused


@pytest.mark.parametrize(
    ("driver", "built_with", "refused"),
    [(13000, "13.0", False), (12080, "13.0", True), (13010, "12.8", False), (12020, "12.8", False)],
)
def test_drivers_that_a_build_runs_on(driver, built_with, refused):
    assert too_old(driver, built_with) is refused


def test_an_old_driver_is_a_reason(monkeypatch):
    built = SimpleNamespace(build_info=lambda: {"cuda": "13.0", "architectures": "90-real"})
    monkeypatch.setattr(cuda, "_C", built)
    monkeypatch.setattr(cuda, "_reason", None)
    monkeypatch.setattr(cuda, "_driver", lambda: 12040)
    monkeypatch.setattr(torch.version, "cuda", "12.4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert "built with CUDA 13.0, and the driver supports only CUDA 12.4" in cuda.why_unavailable()


def test_one_device_without_code_leaves_the_others_alone(monkeypatch):
    capabilities = [(7, 0), (9, 0)]
    built = SimpleNamespace(build_info=lambda: {"cuda": "13.0", "architectures": "90-real"})
    monkeypatch.setattr(cuda, "_C", built)
    monkeypatch.setattr(cuda, "_reason", None)
    monkeypatch.setattr(cuda, "_driver", lambda: 13000)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(registry, "_chosen", {})
    assert cuda.why_unavailable() is None
    assert registry.choose("cuda:1", torch.float32).name == "cuda"
    assert registry.choose("cuda:0", torch.float32).name != "cuda"
    registry._chosen.clear()
    with pk.use_backend("cuda"), pytest.raises(pk.BackendUnavailable, match=r"device 0 has compute capability 7\.0"):
        registry.choose("cuda:0", torch.float32)
    capabilities[1] = (8, 0)
    assert "device 0 has compute capability 7.0" in cuda.why_unavailable()
    assert "device 1 has compute capability 8.0" in cuda.why_unavailable()
