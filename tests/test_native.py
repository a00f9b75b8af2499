"""The compiled CPU module: instruction sets, threads, determinism, the shared pool. Skipped where it was not built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from promptkernels import reference
from promptkernels.backends import cpu

OPS = SimpleNamespace(**cpu.BACKEND.functions)
pytestmark = pytest.mark.skipif(cpu.why_unavailable() is not None, reason=str(cpu.why_unavailable()))

LEVELS = ("baseline", "avx2", "avx512")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64).to(dtype)


def every_op(module, dtype: torch.dtype, t: int = 7, length: int = 12, hidden: int = 333) -> dict[str, torch.Tensor]:
    """All results of all raw operations of a backend module on one fixed problem; large enough for several parts."""
    torch.manual_seed(7)
    start = rand(length, hidden, dtype=dtype)
    prompts = (start + 0.3 * rand(t, length, hidden)).to(dtype)
    others = (start + 0.3 * rand(3, length, hidden)).to(dtype)
    scores, scale = rand(t, length, hidden, dtype=dtype), rand(t, length, dtype=dtype)
    weights = torch.tensor([1.0, 0.0, 0.5, 2.0, 0.0, -1.0, 0.25], dtype=dtype)
    shared, u, v = rand(length, hidden, dtype=dtype), rand(4, length, 2, dtype=dtype), rand(4, 2, hidden, dtype=dtype)
    ids, embeds = torch.tensor([3, 0, 3, 1, 3]), rand(5, 9, hidden, dtype=dtype)
    results: dict[str, tuple[torch.Tensor, ...]] = {}
    for metric in ("cosine", "token_mean_cosine", "token_mean_dot"):
        for right in (None, others):
            name = f"{metric} {'self' if right is None else 'others'}"
            arguments = prompts, start, right, scale, metric, 1e-8
            forward = results[name] = module.task_similarity(*arguments)
            grad = rand(*forward[0].shape).to(forward[0].dtype)
            needs = [True, True, right is not None, True]
            if metric == "cosine":
                results[name + " z"] = module.task_similarity_z(prompts, start, right, scale, 1e-8)[3:]
            results[name + " backward"] = module.task_similarity_backward(grad, *arguments, *forward, needs)
    for per_token in (False, True):
        phi, kernel, h = results[f"svgd {per_token}"] = module.svgd_direction(
            prompts, scores, 0.0, "liu2016", per_token
        )
        results[f"svgd backward {per_token}"] = module.svgd_direction_backward(
            rand(*phi.shape).to(phi.dtype), prompts, scores, kernel, h, per_token
        )
    results["compose"] = (module.compose_prompts(shared, u, v, ids),)
    results["prepend"] = (module.prepend_prompts(shared, u, v, ids, embeds),)
    results["compose backward"] = module.compose_prompts_backward(scores[:5], shared, u, v, ids)
    results["merge"] = (module.merge_task_vectors(start, prompts, scale, weights),)
    results["merge backward"] = module.merge_task_vectors_backward(
        scores[0], start, prompts, scale, weights, [True] * 4
    )
    return {f"{name}[{i}]": tensor for name, tensors in results.items() for i, tensor in enumerate(tensors)}


@pytest.fixture
def level(request):
    """One compiled instruction set, forced."""
    before = cpu.facts()["isa"]
    if request.param not in cpu.facts()["isa_compiled"].split(", "):
        pytest.skip(f"{request.param} is not compiled for this machine")
    try:
        cpu._C.choose_isa(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    yield request.param
    cpu._C.choose_isa(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("level", LEVELS, indirect=True)
def test_every_instruction_set_agrees_with_the_reference(level, dtype):
    assert cpu.facts()["isa"] == level
    ours, oracle = every_op(OPS, dtype), every_op(reference, dtype)
    bound = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}[dtype]
    for name, expected in oracle.items():
        # 16-bit embeddings are rounded once; the reference may round a product on the boundary differently.
        allowed = 1e-2 if name == "prepend[0]" and dtype in (torch.bfloat16, torch.float16) else bound
        assert ours[name].shape == expected.shape and ours[name].dtype == expected.dtype, name
        error = (ours[name].double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-30)
        assert error <= allowed, f"{name}: relative error {error:.2e}"


def test_the_best_instruction_set_is_chosen_and_no_torch_is_needed():
    script = Path(__file__).with_name("kernels_alone.py")
    clean = {name: value for name, value in os.environ.items() if name != "PROMPTKERNELS_CPU"}
    done = subprocess.run([sys.executable, script], env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("level", LEVELS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_output_is_rounded_as_torch_rounds(level, dtype):
    """Every 16-bit number, its neighbourhood in float32, and the special ones, through prepend_prompts' store."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    near = torch.cat([every, every * (1 + 2**-9), every * (1 - 2**-12), every * 1.00390625])
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-45, 65519.99, 65520.0, 3.4e38])
    row = torch.cat([near, special]).unsqueeze(0)
    ones = torch.ones(1, 1, 1), torch.ones(1, 1, row.shape[1])
    embeds = torch.empty(1, 0, row.shape[1], dtype=dtype)
    out = OPS.prepend_prompts(row, *ones, torch.zeros(1, dtype=torch.int64), embeds)[0]
    torch.testing.assert_close(out, row.to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("level", LEVELS, indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_16_bit_input_is_widened_exactly(level, dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    prompts = every.view(1, 1, -1)
    merged = OPS.merge_task_vectors(torch.zeros_like(prompts[0]), prompts, None, None)
    torch.testing.assert_close(merged[0], every.float(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_bits_twice_and_for_any_number_of_threads(dtype):
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            runs.append(every_op(OPS, dtype, hidden=3333))
    finally:
        torch.set_num_threads(before)
    for other in runs[1:]:
        for name, tensor in runs[0].items():
            assert torch.equal(tensor, other[name]), name


def test_results_do_not_depend_on_alignment():
    torch.manual_seed(0)
    prompts = rand(5, 3, 257)
    store = torch.zeros(prompts.numel() + 3)
    shifted = store[3:].view_as(prompts).copy_(prompts)
    for ours, expected in zip(
        OPS.task_similarity(shifted, None, None, None, "cosine", 1e-8),
        OPS.task_similarity(prompts, None, None, None, "cosine", 1e-8),
        strict=True,
    ):
        assert torch.equal(ours, expected)


def test_gram_accuracy_for_close_particles():
    """One per cent apart, centred: the headline of the package, where the plain Gram form loses four digits."""
    torch.manual_seed(0)
    start = rand(100, 768)
    particles, scores = start + 0.01 * rand(16, 100, 768), 0.01 * rand(16, 100, 768)
    phi, _, _ = OPS.svgd_direction(particles, scores, 0.0, "liu2016", False)
    exact, _, _ = reference.svgd_direction(particles.double(), scores.double(), 0.0, "liu2016", False)
    assert (phi.double() - exact).norm() / exact.norm() < 1e-6


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


FACTS = "import promptkernels as pk; s = pk.backends()['cpu']; print(s.available, s.reason, s.facts.get('isa'))"


def test_environment_variable_forces_a_lower_instruction_set():
    done = run_python(FACTS, PROMPTKERNELS_CPU="baseline")
    assert done.stdout.split() == ["True", "baseline"], done.stderr


def test_wrong_instruction_set_is_a_reason_and_not_a_crash():
    done = run_python(FACTS, PROMPTKERNELS_CPU="avx9000")
    assert done.stdout.startswith("False ")
    assert "PROMPTKERNELS_CPU must be one of" in done.stdout and "'avx9000'" in done.stdout


def test_threads_come_from_torchs_pool():
    """After torch has started its threads, our kernels start no others, and no second OpenMP runtime is loaded."""
    if not os.path.exists("/proc/self/task"):
        pytest.skip("needs /proc")
    code = """
import os, torch
from promptkernels.backends import cpu
torch.set_num_threads(2)
torch.randn(512, 4096).exp().sum()
before = len(os.listdir("/proc/self/task"))
cpu.BACKEND.functions["svgd_direction"](torch.randn(8, 16, 4096), torch.randn(8, 16, 4096), 1.0, "fixed", False)
after = len(os.listdir("/proc/self/task"))
names = ("libgomp", "libiomp", "libomp")
runtimes = {line.split()[-1] for line in open("/proc/self/maps") if any(n in line for n in names)}
ours = os.path.realpath(cpu.facts()["openmp"])
print(before == after, [os.path.realpath(r) for r in runtimes] == [ours])
"""
    done = run_python(code)
    assert done.stdout.split() == ["True", "True"], done.stdout + done.stderr


def test_task_id_is_checked_before_anything_is_written():
    shared, u, v = torch.ones(2, 3), torch.ones(2, 2, 1), torch.ones(2, 1, 3)
    for ids in (torch.tensor([0, 2]), torch.tensor([-1, 0], dtype=torch.int32)):
        with pytest.raises(IndexError, match=r"task_ids holds (2|-1), but valid task ids are 0\.\.1"):
            OPS.compose_prompts(shared, u, v, ids)
