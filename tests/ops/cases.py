"""Inputs shared by the tests of the operations: shapes that cross every block edge, layouts, and seeded tensors."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

import promptkernels as pk

# (T, L, H): one row, odd sizes around vector widths, more rows than a register block holds, the most that kernels take,
# a wide prompt.
PROMPT_SHAPES = [
    (1, 1, 1),
    (2, 3, 7),
    (3, 1, 65),
    (5, 4, 63),
    (8, 20, 64),
    (16, 3, 129),
    (33, 2, 40),
    (64, 1, 24),
    (6, 100, 768),
]

# (B, T, L, R, H, S)
COMPOSE_SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (4, 3, 5, 1, 7, 2),
    (7, 2, 3, 2, 65, 0),
    (0, 2, 3, 1, 8, 4),
    (16, 6, 20, 4, 48, 9),
    (6, 9, 33, 3, 130, 5),
]

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]

# Relative root-mean-square error allowed against the float64 oracle that gets the very same (rounded) inputs. The plain
# torch reference sums 76,800 products in float32 by one matrix product; the kernels combine their chunks in float64.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-6, torch.float16: 1e-6}
REFERENCE_SUM = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}
ROUNDED_OUTPUT = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def sizes(shapes: list[tuple[int, ...]], large: int = 10_000) -> list:
    """Test parameters of these shapes; those with more elements than ``large`` are marked so (see conftest.py)."""
    return [
        pytest.param(shape, id=str(shape), marks=[pytest.mark.large] if math.prod(shape) > large else [])
        for shape in shapes
    ]


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32, requires_grad: bool = False) -> Tensor:
    """Standard normal numbers on the default device, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(torch.get_default_device(), dtype).requires_grad_(requires_grad)


def ids(rows: int, tasks: int, seed: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randint(tasks, (rows,), generator=generator, dtype=dtype, device="cpu")
    return drawn.to(torch.get_default_device())


def asserts_on_device(backend: str) -> bool:
    """Whether a bad task id ends the process, as in torch's own indexing on a GPU, instead of raising IndexError."""
    if backend == "cuda-emulated":
        return True
    return backend != "reference" and torch.get_default_device().type == "cuda"


def compose_inputs(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """shared, u, v, task_ids, input_embeds for one of `COMPOSE_SHAPES`."""
    b, t, length, r, h, s = shape
    return (
        rand(length, h, seed=1, dtype=dtype),
        rand(t, length, r, seed=2, dtype=dtype),
        rand(t, r, h, seed=3, dtype=dtype),
        ids(b, t, seed=4),
        rand(b, s, h, seed=5, dtype=dtype),
    )


def relative_rms(got: Tensor, want: Tensor) -> float:
    """|got - want| / |want|, in float64; NaN never passes a comparison with it."""
    got, want = got.detach().double(), want.detach().double()
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, wanted {tuple(want.shape)}"
    if want.numel() == 0:
        return 0.0
    scale = want.norm()
    return float((got - want).norm() / scale) if scale > 0 else float(got.norm())


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    """Relative RMS within tolerance, and no single entry further off than a hundred times that of the largest entry."""
    got, want = got.detach().double(), want.detach().double()
    error = relative_rms(got, want)
    assert error <= tolerance, f"relative RMS error {error:.3g} > {tolerance:.3g}"
    if want.numel():
        worst = float((got - want).abs().max())
        bound = 100 * tolerance * float(want.abs().max()) + 1e-300
        assert worst <= bound, f"largest error {worst:.3g} > {bound:.3g}"


LAYOUTS = ("permuted", "sliced", "offset", "expanded")


def strided(tensor: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout; the memory around them holds NaN, so a stray access shows.

    ``permuted``: dense, dimensions in another order. ``sliced``: a window of a larger tensor. ``offset``: contiguous,
    but one element off any alignment. ``expanded``: the first row for every row, with stride 0.
    """
    if layout == "contiguous":
        return tensor.clone()
    if layout == "permuted":
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "expanded":
        return tensor[:1].expand_as(tensor)
    if layout == "offset":
        buffer = tensor.new_full((tensor.numel() + 18,), float("nan"))
        return buffer[17:-1].view_as(tensor).copy_(tensor)
    buffer = tensor.new_full([n + 3 for n in tensor.shape], float("nan"))
    view = buffer[tuple(slice(1, 1 + n) for n in tensor.shape)]
    return view.copy_(tensor)


def similarity_plus_z(**tensors: Tensor) -> Tensor:
    """Both outputs in one; the gradient is that of the similarity."""
    similarity, z = pk.task_similarity(**tensors, return_z=True)
    return similarity + z


def public_calls(
    tasks: int = 7, length: int = 6, hidden: int = 33, rows: int = 12
) -> dict[str, tuple[partial, dict[str, Tensor]]]:
    """Every public function that has a gradient, to be called with floating tensors by name."""
    shared, u, v, task_ids, embeds = compose_inputs((rows, tasks, length, 2, hidden, length + 2))
    start = rand(length, hidden, seed=1)
    prompts = {"reference": start, "prompts": start + rand(tasks, length, hidden)}
    others, scale = {"others": start + rand(3, length, hidden, seed=2)}, {"scale": rand(tasks, length, seed=3)}
    stein = {"particles": rand(tasks, length, hidden), "scores": rand(tasks, length, hidden, seed=3)}
    factors = {"shared": shared, "u": u, "v": v}
    similarity = {
        metric: (partial(pk.task_similarity, metric=metric), {**prompts, **scale})
        for metric in ("cosine", "token_mean_cosine", "token_mean_dot")
    }
    return {
        **similarity,
        "cosine others": (partial(pk.task_similarity), {**prompts, **others, **scale}),
        "cosine and z": (partial(similarity_plus_z), {**prompts, **others, **scale}),
        "svgd": (partial(pk.svgd_direction), stein),
        "svgd per token": (partial(pk.svgd_direction, per_token=True), stein),
        "compose": (partial(pk.compose_prompts, task_ids=task_ids), factors),
        "prepend": (partial(pk.prepend_prompts, task_ids=task_ids), {**factors, "input_embeds": embeds}),
        "merge": (partial(pk.merge_task_vectors), {**prompts, **scale, "weights": rand(tasks)}),
    }


CALLS = tuple(public_calls())

OPS = torch.ops.promptkernels

# The schema of every registered operation. Callers of torch.ops.promptkernels rely on it.
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


def samples(dtype: torch.dtype = torch.float32) -> dict[str, list[tuple]]:
    """Arguments of every registered operation, forward and backward."""
    draw = partial(rand, dtype=dtype)
    prompts, reference, others, scale = draw(4, 3, 10), draw(3, 10, seed=1), draw(2, 3, 10, seed=2), draw(4, 3, seed=3)
    shared, u, v, task_ids, embeds = compose_inputs((6, 3, 5, 2, 10, 4), dtype)
    similarity = OPS.task_similarity(prompts, reference, others, scale, "cosine", 1e-8)
    _, kernel, h = OPS.svgd_direction(prompts, prompts, 0.0, "liu2016", True)
    long_grad = draw(6, 9, 10, seed=6)
    return {
        "task_similarity": [
            (prompts, None, None, None, "cosine", 1e-8),
            (prompts, reference, others, scale, "token_mean_cosine", 1e-8),
        ],
        "task_similarity_z": [(prompts, None, None, None, 1e-8), (prompts, reference, others, scale, 1e-8)],
        "task_similarity_backward": [
            (draw(4, 2), prompts, reference, others, scale, "cosine", 1e-8, *similarity, [True, True, True, True]),
            (draw(4, 2), prompts, reference, others, scale, "cosine", 1e-8, *similarity, [True, False, False, False]),
        ],
        "svgd_direction": [
            (prompts, prompts * 2, 0.0, "liu2016", False),
            (prompts, prompts * 2, 1.0, "fixed", True),
        ],
        "svgd_direction_backward": [(prompts, prompts * 3, prompts * 2, kernel, h, True)],
        "compose_prompts": [(shared, u, v, task_ids)],
        "compose_prompts_backward": [(long_grad[:, :5], shared, u, v, task_ids)],
        "prepend_prompts": [(shared, u, v, task_ids, embeds), (shared, u, v, task_ids, embeds.bfloat16())],
        "merge_task_vectors": [(reference, prompts, None, None), (reference, prompts, scale, draw(4))],
        "merge_task_vectors_backward": [
            (reference, reference * 2, prompts, scale, draw(4), [True, True, True, True]),
            (reference, reference * 2, prompts, None, None, [False, True, False, False]),
        ],
        "select_group": [(draw(5, 5), 2)],
    }
