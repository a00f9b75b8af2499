"""What the registered operations hold their arguments to, whoever calls them: ``torch.ops.promptkernels.*`` is public.

The compiled kernels see addresses only, so a tensor of another size, type or device would be read or written outside of
its memory. One function per operation, with that operation's arguments; all by metadata, below a microsecond. The
public functions check on their own before (`promptkernels.ops.checks`), in the words of the caller's shapes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from promptkernels.backends.types import accumulation_type
from promptkernels.ops.checks import FLOATING

METRICS = ("cosine", "token_mean_cosine", "token_mean_dot")
CONVENTIONS = ("liu2016", "numpyro", "blackjax")


def _wrong_type(name: str, tensor: Tensor) -> ValueError:
    return ValueError(f"{name} must be float32, float64, bfloat16 or float16, got {tensor.dtype}")


def _misplaced(name: str, tensor: Tensor, shape: str, device: int) -> ValueError:
    place = "the CPU" if device < 0 else f"device {device}"
    got = f"{tuple(tensor.shape)} on {tensor.device}"
    return ValueError(f"{name} must have shape {shape} and lie on {place} as the first argument, got {got}")


def _fit(name: str, tensor: Tensor | None, shape: tuple[int, ...], device: int) -> None:
    if tensor is None:
        return
    if tensor.shape != shape or tensor.get_device() != device:
        raise _misplaced(name, tensor, str(tuple(shape)), device)
    if tensor.dtype not in FLOATING:
        raise _wrong_type(name, tensor)


def _saved(name: str, tensor: Tensor, shape: tuple[int, ...], device: int, dtype: torch.dtype) -> None:
    """A result of the forward operation: it is read in the type in which that wrote it."""
    _fit(name, tensor, shape, device)
    if tensor.dtype != dtype:
        raise ValueError(f"{name} must be {dtype}, as the forward operation made it, got {tensor.dtype}")


def _rank(name: str, tensor: Tensor, dims: str) -> tuple[int, ...]:
    shape = tensor.shape
    if len(shape) != len(dims) or 0 in shape:
        raise ValueError(f"{name} must have shape ({', '.join(dims)}), none of them 0, got {tuple(shape)}")
    if tensor.dtype not in FLOATING:
        raise _wrong_type(name, tensor)
    return shape


def _known(name: str, value: str, names: tuple[str, ...]) -> None:
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")


def _needed(needs: list[bool], **tensors: Tensor | None) -> None:
    if len(needs) != len(tensors):
        raise ValueError(f"needs must hold {len(tensors)} truth values, got {len(needs)}")
    for need, (name, tensor) in zip(needs, tensors.items(), strict=True):
        if need and tensor is None:
            raise ValueError(f"needs asks for the gradient of {name}, which is not given")


def task_similarity(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, metric: str, eps: float
) -> None:
    n, length, hidden = _rank("prompts", prompts, "TLH")
    device = prompts.get_device()
    _fit("reference", reference, (length, hidden), device)
    if others is not None:
        _fit("others", others, (_rank("others", others, "SLH")[0], length, hidden), device)
    _fit("scale", scale, (n, length), device)
    _known("metric", metric, METRICS)
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps}")


def task_similarity_z(
    prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, eps: float
) -> None:
    task_similarity(prompts, reference, others, scale, "cosine", eps)


def task_similarity_backward(
    grad: Tensor,
    prompts: Tensor,
    reference: Tensor | None,
    others: Tensor | None,
    scale: Tensor | None,
    metric: str,
    eps: float,
    similarity: Tensor,
    left_norm: Tensor,
    right_norm: Tensor,
    needs: list[bool],
) -> None:
    task_similarity(prompts, reference, others, scale, metric, eps)
    n, m, device = prompts.shape[0], (prompts if others is None else others).shape[0], prompts.get_device()
    acc = accumulation_type(prompts, reference, others, scale)
    _fit("grad", grad, (n, m), device)
    _saved("similarity", similarity, (n, m), device, acc)
    _saved("left_norm", left_norm, (n,), device, acc)
    _saved("right_norm", right_norm, (m,), device, acc)
    _needed(needs, prompts=prompts, reference=reference, others=others, scale=scale)


def svgd_direction(particles: Tensor, scores: Tensor, bandwidth: float, convention: str, per_token: bool) -> None:
    shape = _rank("particles", particles, "MLH")
    _fit("scores", scores, shape, particles.get_device())
    _known("convention", convention, ("fixed", *CONVENTIONS))
    if convention == "fixed" and not bandwidth > 0:
        raise ValueError(f"bandwidth must be > 0 where the convention is fixed, got {bandwidth}")


def svgd_direction_backward(
    grad: Tensor,
    particles: Tensor,
    scores: Tensor,
    kernel: Tensor,
    h: Tensor,
    per_token: bool,
) -> None:
    svgd_direction(particles, scores, 1.0, "fixed", per_token)
    (m, length, _), device = particles.shape, particles.get_device()
    groups, acc = length if per_token else 1, accumulation_type(particles, scores)
    _fit("grad", grad, particles.shape, device)
    _saved("kernel", kernel, (groups, m, m), device, acc)
    _saved("h", h, (groups,), device, acc)


def compose_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> None:
    length, hidden = _rank("shared", shared, "LH")
    tasks, u_length, rank = _rank("u", u, "TLR")
    device, wide = shared.get_device(), task_ids.dtype
    if u_length != length or u.get_device() != device:
        _fit("u", u, (tasks, length, rank), device)
    _fit("v", v, (tasks, rank, hidden), device)
    if wide is not torch.int64 and wide is not torch.int32:
        raise ValueError(f"task_ids must be int32 or int64, got {wide}")
    if task_ids.dim() != 1 or task_ids.get_device() != device:
        raise _misplaced("task_ids", task_ids, f"({task_ids.numel()},)", device)


def compose_prompts_backward(grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> None:
    compose_prompts(shared, u, v, task_ids)
    _fit("grad", grad, (task_ids.shape[0], *shared.shape), shared.get_device())


def prepend_prompts(shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> None:
    compose_prompts(shared, u, v, task_ids)
    text = input_embeds.shape[1] if input_embeds.dim() == 3 else 0
    _fit("input_embeds", input_embeds, (task_ids.shape[0], text, shared.shape[1]), shared.get_device())


def merge_task_vectors(reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None) -> None:
    tasks, length, hidden = _rank("prompts", prompts, "TLH")
    device = prompts.get_device()
    _fit("reference", reference, (length, hidden), device)
    _fit("scale", scale, (tasks, length), device)
    _fit("weights", weights, (tasks,), device)


def merge_task_vectors_backward(
    grad: Tensor,
    reference: Tensor,
    prompts: Tensor,
    scale: Tensor | None,
    weights: Tensor | None,
    needs: list[bool],
) -> None:
    merge_task_vectors(reference, prompts, scale, weights)
    _fit("grad", grad, reference.shape, prompts.get_device())
    _needed(needs, reference=reference, prompts=prompts, scale=scale, weights=weights)


def select_group(similarity: Tensor, target: int) -> None:
    n, _ = _rank("similarity", similarity, "NN")
    _fit("similarity", similarity, (n, n), similarity.get_device())
    if not 0 <= target < n:
        raise IndexError(f"target must be in 0..{n - 1}, got {target}")
