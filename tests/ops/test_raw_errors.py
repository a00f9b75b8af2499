"""Direct calls of `torch.ops.promptkernels.*`: arguments that could read outside of memory are refused by name."""

from __future__ import annotations

import pytest
import torch
from cases import asserts_on_device, compose_inputs, rand

OPS = torch.ops.promptkernels
F64 = torch.float64


def bad_calls():
    """Operation, its arguments with one of them wrong, and what the error says."""
    p, r, o, s, w = rand(4, 3, 5), rand(3, 5), rand(2, 3, 5), rand(4, 3), rand(4)
    shared, u, v, ids, embeds = compose_inputs((6, 3, 5, 2, 10, 4))
    grad = rand(6, 5, 10)
    sim, left, right = OPS.task_similarity(p, r, o, s, "cosine", 1e-8)
    _, kernel, h = OPS.svgd_direction(p, p, 0.0, "liu2016", True)
    cosine, needs = ("cosine", 1e-8), [True] * 4
    liu = (0.0, "liu2016", False)
    saved = (*cosine, sim, left, right)
    return {
        "prompts flat": ("task_similarity", (p[0], None, None, None, *cosine), r"prompts .*\(T, L, H\).*got \(3, 5\)"),
        "prompts empty": ("task_similarity", (p[:0], None, None, None, *cosine), r"prompts .*got \(0, 3, 5\)"),
        "reference": ("task_similarity", (p, r[:2], None, None, *cosine), r"reference .*\(3, 5\).*got \(2, 5\)"),
        "others": ("task_similarity", (p, r, o[:, :2], None, *cosine), r"others .*\(2, 3, 5\).*got \(2, 2, 5\)"),
        "others flat": ("task_similarity", (p, r, r, None, *cosine), r"others .*\(S, L, H\).*got \(3, 5\)"),
        "scale": ("task_similarity", (p, r, None, s[:3], *cosine), r"scale .*\(4, 3\).*got \(3, 3\)"),
        "metric": ("task_similarity", (p, r, None, s, "dot", 1e-8), r"metric must be one of cosine.*got 'dot'"),
        "z others": ("task_similarity_z", (p, r, o[:, :2], None, 1e-8), r"others .*\(2, 3, 5\).*got \(2, 2, 5\)"),
        "z eps": ("task_similarity_z", (p, r, o, s, 0.0), r"eps must be > 0, got 0"),
        "similarity grad": ("task_similarity_backward", (sim.T, p, r, o, s, *saved, needs), r"grad .*\(4, 2\)"),
        "left_norm": (
            "task_similarity_backward",
            (sim, p, r, o, s, *cosine, sim, right, right, needs),
            r"left_norm .*\(4,\).*got \(2,\)",
        ),
        "right_norm": (
            "task_similarity_backward",
            (sim, p, r, o, s, *cosine, sim, left, left, needs),
            r"right_norm .*\(2,\).*got \(4,\)",
        ),
        "saved type": (
            "task_similarity_backward",
            (sim, p.double(), r, o, s, *saved, needs),
            r"similarity must be torch.float64.*got torch.float32",
        ),
        "norm type": (
            "task_similarity_backward",
            (sim, p, r, o, s, *cosine, sim, left.double(), right, needs),
            r"left_norm must be torch.float32.*got torch.float64",
        ),
        "needs": (
            "task_similarity_backward",
            (sim, p, None, o, None, *saved, [True, True, False, False]),
            r"needs requests the gradient of reference",
        ),
        "complex reference": (
            "task_similarity",
            (p, r.to(torch.complex64), None, None, *cosine),
            r"reference must be float32.*got torch.complex64",
        ),
        "whole numbers": (
            "task_similarity",
            (p.int(), None, None, None, *cosine),
            r"prompts must be float32.*torch.int32",
        ),
        "no scores": ("svgd_direction", (p, None, *liu), r"scores must be a tensor, got None"),
        "meta": ("task_similarity", (p, r.to("meta"), None, None, *cosine), r"reference must be on .*, got meta"),
        "no needs": ("merge_task_vectors_backward", (r, r, p, s, w, []), r"needs must have 4 truth values, got 0"),
        "scores": ("svgd_direction", (p, p[:3], *liu), r"scores .*\(4, 3, 5\).*got \(3, 3, 5\)"),
        "scores type": ("svgd_direction", (p, p.int(), *liu), r"scores must be float32.*got torch.int32"),
        "eps": ("task_similarity", (p, r, None, s, "cosine", float("nan")), r"eps must be > 0, got nan"),
        "bandwidth": ("svgd_direction", (p, p, -1.0, "fixed", False), r"bandwidth must be > 0 .*got -1"),
        "convention": ("svgd_direction", (p, p, 0.0, "median", False), r"convention .*liu2016.*got 'median'"),
        "svgd grad": ("svgd_direction_backward", (r, p, p, kernel, h, True), r"grad .*\(4, 3, 5\).*got \(3, 5\)"),
        "kernel": (
            "svgd_direction_backward",
            (p, p, p, kernel, h, False),
            r"kernel .*\(1, 4, 4\).*got \(3, 4, 4\)",
        ),
        "h": ("svgd_direction_backward", (p, p, p, kernel, h[:1], True), r"h .*\(3,\).*got \(1,\)"),
        "kernel type": (
            "svgd_direction_backward",
            (p, p, p, kernel.double(), h, True),
            r"kernel must be torch.float32.*got torch.float64",
        ),
        "u": ("compose_prompts", (shared, u[:, :4], v, ids), r"u .*\(3, 5, 2\).*got \(3, 4, 2\)"),
        "v": ("compose_prompts", (shared, u, v[:, :1], ids), r"v .*\(3, 2, 10\).*got \(3, 1, 10\)"),
        "v tasks": ("compose_prompts", (shared, u, v[:2], ids), r"v .*\(3, 2, 10\).*got \(2, 2, 10\)"),
        "ids type": ("compose_prompts", (shared, u, v, ids.short()), r"task_ids .*int32 or int64, got torch.int16"),
        "ids rank": ("compose_prompts", (shared, u, v, ids[None]), r"task_ids .*\(6,\).*got \(1, 6\)"),
        "compose grad": (
            "compose_prompts_backward",
            (grad[:5], shared, u, v, ids),
            r"grad .*\(6, 5, 10\).*got \(5, 5, 10\)",
        ),
        "grad type": (
            "compose_prompts_backward",
            (grad.int(), shared, u, v, ids),
            r"grad must be float32.*got torch.int32",
        ),
        "embeds type": ("prepend_prompts", (shared, u, v, ids, embeds.int()), r"input_embeds must be float32.*int32"),
        "embeds": (
            "prepend_prompts",
            (shared, u, v, ids, embeds[:5]),
            r"input_embeds .*\(6, 4, 10\).*got \(5, 4, 10\)",
        ),
        "embeds hidden": ("prepend_prompts", (shared, u, v, ids, embeds[..., 1:]), r"input_embeds .*got \(6, 4, 9\)"),
        "embeds flat": ("prepend_prompts", (shared, u, v, ids, embeds[0]), r"input_embeds .*got \(4, 10\)"),
        "merge reference": ("merge_task_vectors", (r[:, 1:], p, None, None), r"reference .*\(3, 5\).*got \(3, 4\)"),
        "merge scale": ("merge_task_vectors", (r, p, s.T, None), r"scale .*\(4, 3\).*got \(3, 4\)"),
        "weights": ("merge_task_vectors", (r, p, None, w[:3]), r"weights .*\(4,\).*got \(3,\)"),
        "merge grad": (
            "merge_task_vectors_backward",
            (p, r, p, s, w, needs),
            r"grad .*\(3, 5\).*got \(4, 3, 5\)",
        ),
        "similarity": ("select_group", (rand(3, 4), 0), r"similarity .*\(3, 3\).*got \(3, 4\)"),
    }


@pytest.mark.parametrize("case", list(bad_calls()))
def test_shapes_types_and_names(backend, case):
    operation, arguments, message = bad_calls()[case]
    with pytest.raises(ValueError, match=message):
        getattr(OPS, operation)(*arguments)


@pytest.mark.parametrize("target", [-1, 4])
def test_target_out_of_range(backend, target):
    with pytest.raises(IndexError, match=rf"target must be in 0\.\.3, got {target}"):
        OPS.select_group(torch.eye(4), target)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("bad", [-1, 3])
def test_task_id_out_of_range(backend, bad, dtype):
    if asserts_on_device(backend):
        pytest.skip("ends the process: see test_errors.py")
    shared, u, v, ids, embeds = compose_inputs((6, 3, 5, 2, 10, 4))
    ids[3] = bad
    ids = ids.to(dtype)
    for name, arguments in [
        ("compose_prompts", (shared, u, v, ids)),
        ("prepend_prompts", (shared, u, v, ids, embeds)),
        ("compose_prompts_backward", (rand(6, 5, 10), shared, u, v, ids)),
    ]:
        with pytest.raises(IndexError, match=rf"task_ids holds {bad}.*0\.\.2"):
            getattr(OPS, name)(*arguments)


@pytest.mark.parametrize("kind", ["sparse", "quantized", "nested"])
def test_tensor_without_plain_memory(kind):
    """Torch refuses it before a kernel asks for an address."""
    dense = torch.ones(3, 5)
    make = {
        "sparse": dense.to_sparse,
        "quantized": lambda: torch.quantize_per_tensor(dense, 0.5, 0, torch.qint8),
        "nested": lambda: torch.nested.nested_tensor([dense]),
    }
    with pytest.raises(NotImplementedError, match="promptkernels::task_similarity"):
        OPS.task_similarity(torch.ones(4, 3, 5), make[kind](), None, None, "cosine", 1e-8)


def test_negative_views_and_zero_tensors(backend):
    """The memory of these tensors has other numbers, or they have none."""
    p, r = rand(4, 3, 5), rand(3, 5)
    want = OPS.merge_task_vectors(r, p, None, None)
    assert torch.equal(OPS.merge_task_vectors(torch._neg_view(-r), torch._neg_view(-p), None, None), want)
    zero = torch._efficientzerotensor((3, 5), device=p.device)
    assert torch.equal(OPS.merge_task_vectors(zero, p, None, None), OPS.merge_task_vectors(r * 0, p, None, None))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs two kinds of device")
@pytest.mark.parametrize("position", [1, 3])
def test_tensor_on_another_device(position):
    arguments = [rand(4, 3, 5), rand(3, 5), None, rand(4, 3), "cosine", 1e-8]
    arguments = [a.cuda() if torch.is_tensor(a) and i != position else a for i, a in enumerate(arguments)]
    with pytest.raises(ValueError, match=r"must .*be on device 0.*on cpu"):
        OPS.task_similarity(*arguments)
