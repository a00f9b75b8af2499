"""What the compiled backends share: tensors become addresses, sizes and type codes, destinations are allocated.

Both native modules have the same functions; only their last argument differs, a number of threads or a stream.
Arguments are already checked; see `promptkernels.reference` for the formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from promptkernels.backends.types import accumulation_type

# That of the compiled modules this file knows how to call: kInterface in csrc/bindings.h.
INTERFACE = 5

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

_CODES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_METRICS = {"cosine": 0, "token_mean_cosine": 1, "token_mean_dot": 2}
_CONVENTIONS = {"fixed": 0, "liu2016": 1, "numpyro": 2, "blackjax": 3}


def load(name: str) -> tuple[ModuleType | None, str | None]:
    """The compiled module ``promptkernels.<name>``, or None and the reason in one line."""
    full = f"promptkernels.{name}"
    try:
        module = import_module(full)
    except ModuleNotFoundError:
        return None, f"the package was installed without the compiled module {full}"
    except (ImportError, ValueError) as error:  # ValueError: a wrong PROMPTKERNELS_CPU
        return None, f"{full} does not load: {error}"
    if getattr(module, "INTERFACE", None) != INTERFACE:
        return None, f"{full} was built for another version of the package: install it again"
    return module, None


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _as(dtype: torch.dtype, tensor: Tensor | None) -> Tensor | None:
    """Contiguous and of this type; the tensor itself where it already is."""
    if tensor is None:
        return None
    return (tensor if tensor.dtype == dtype else tensor.to(dtype)).contiguous()


def _common(acc: torch.dtype, *tensors: Tensor | None) -> list[Tensor | None]:
    """Contiguous tensors of one type: their own where they agree on one that accumulates in acc, else acc."""
    kinds = {t.dtype for t in tensors if t is not None}
    dtype = kinds.pop() if len(kinds) == 1 and (acc == torch.float32 or torch.float64 in kinds) else acc
    return [_as(dtype, t) for t in tensors]


def _wanted(beside: Tensor, need: bool, like: Tensor | None, acc: torch.dtype) -> Tensor:
    return beside.new_empty(like.shape if need else (0,), dtype=acc)


def _wanted_address(need: bool, tensor: Tensor) -> int:
    return tensor.data_ptr() if need else 0


class NativeOps:
    """The raw operations on a native module.

    Args:
        module: ``_C_cpu`` or ``_C_cuda``; None where it is not there (no operation may be called then).
        run: calls a function of the module, ``run(function, device, *arguments)``, adding the last argument.
    """

    def __init__(self, module: ModuleType | None, run: Callable[..., Any]) -> None:
        self.module, self.run = module, run

    def task_similarity(
        self,
        prompts: Tensor,
        reference: Tensor | None,
        others: Tensor | None,
        scale: Tensor | None,
        metric: str,
        eps: float,
        z: Tensor | None = None,  # where to write it, if it is wanted
    ) -> tuple[Tensor, Tensor, Tensor]:
        acc = accumulation_type(prompts, reference, others, scale)
        prompts, reference, others = _common(acc, prompts, reference, others)
        scale = _as(acc, scale)
        n, length, hidden = prompts.shape
        m = n if others is None else others.shape[0]
        similarity = prompts.new_empty((n, m), dtype=acc)
        left_norm, right_norm = prompts.new_empty(n, dtype=acc), prompts.new_empty(m, dtype=acc)
        self.run(
            self.module.similarity, prompts.device,
            prompts.data_ptr(), _address(reference), _address(others), _address(scale), n, m, length, hidden,
            _CODES[prompts.dtype], _METRICS[metric], eps,
            similarity.data_ptr(), left_norm.data_ptr(), right_norm.data_ptr(), _address(z),
        )  # fmt: skip
        return similarity, left_norm, right_norm

    def task_similarity_z(
        self, prompts: Tensor, reference: Tensor | None, others: Tensor | None, scale: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        shape = prompts.shape[0], (prompts if others is None else others).shape[0]
        z = prompts.new_empty(shape, dtype=accumulation_type(prompts, reference, others, scale))
        return (*NativeOps.task_similarity(self, prompts, reference, others, scale, "cosine", eps, z), z)

    def task_similarity_backward(
        self,
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
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        acc = similarity.dtype
        outs = [
            _wanted(prompts, need, t, acc) for need, t in zip(needs, (prompts, reference, others, scale), strict=True)
        ]
        prompts, reference, others = _common(acc, prompts, reference, others)
        grad, scale, similarity = _as(acc, grad), _as(acc, scale), similarity.contiguous()
        left_norm, right_norm = left_norm.contiguous(), right_norm.contiguous()
        n, length, hidden = prompts.shape
        self.run(
            self.module.similarity_backward, prompts.device,
            grad.data_ptr(), prompts.data_ptr(), _address(reference), _address(others), _address(scale),
            n, n if others is None else others.shape[0], length, hidden, _CODES[prompts.dtype], _METRICS[metric], eps,
            similarity.data_ptr(), left_norm.data_ptr(), right_norm.data_ptr(),
            *map(_wanted_address, needs, outs),
        )  # fmt: skip
        return tuple(outs)

    def svgd_direction(
        self,
        particles: Tensor,
        scores: Tensor,
        bandwidth: float,
        convention: str,
        per_token: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        acc = accumulation_type(particles, scores)
        (particles,), (scores,) = _common(acc, particles), _common(acc, scores)
        m, length, hidden = particles.shape
        groups = length if per_token else 1
        phi = particles.new_empty((m, length, hidden), dtype=acc)
        kernel, h = particles.new_empty((groups, m, m), dtype=acc), particles.new_empty(groups, dtype=acc)
        self.run(
            self.module.svgd, particles.device,
            particles.data_ptr(), scores.data_ptr(), m, length, hidden,
            _CODES[particles.dtype], _CODES[scores.dtype], _CONVENTIONS[convention], bandwidth, per_token,
            phi.data_ptr(), kernel.data_ptr(), h.data_ptr(),
        )  # fmt: skip
        return phi, kernel, h

    def svgd_direction_backward(
        self,
        grad: Tensor,
        particles: Tensor,
        scores: Tensor,
        kernel: Tensor,
        h: Tensor,
        per_token: bool,
    ) -> tuple[Tensor, Tensor]:
        acc = kernel.dtype
        (particles,), (scores,) = _common(acc, particles), _common(acc, scores)
        grad, kernel, h = _as(acc, grad), kernel.contiguous(), h.contiguous()
        m, length, hidden = particles.shape
        d_particles, d_scores = (
            particles.new_empty(particles.shape, dtype=acc),
            particles.new_empty(particles.shape, dtype=acc),
        )
        self.run(
            self.module.svgd_backward, particles.device,
            grad.data_ptr(), particles.data_ptr(), scores.data_ptr(), m, length, hidden,
            _CODES[acc], _CODES[particles.dtype], _CODES[scores.dtype],
            kernel.data_ptr(), h.data_ptr(), per_token,
            d_particles.data_ptr(), d_scores.data_ptr(),
        )  # fmt: skip
        return d_particles, d_scores

    def _compose(self, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, embeds: Tensor | None) -> Tensor:
        acc = accumulation_type(shared, u, v)
        shared, u, v, task_ids = _as(acc, shared), _as(acc, u), _as(acc, v), task_ids.contiguous()
        (length, hidden), (tasks, _, rank), batch = shared.shape, u.shape, task_ids.shape[0]
        text = 0
        if embeds is not None:
            embeds, text = embeds.contiguous(), embeds.shape[1]
        dtype = acc if embeds is None else embeds.dtype
        out = shared.new_empty((batch, length + text, hidden), dtype=dtype)
        self.run(
            self.module.compose, shared.device,
            shared.data_ptr(), u.data_ptr(), v.data_ptr(), tasks, length, rank, hidden, acc == torch.float64,
            task_ids.data_ptr(), task_ids.dtype == torch.int64, batch, _address(embeds), text,
            _CODES[dtype], out.data_ptr(),
        )  # fmt: skip
        return out

    def compose_prompts(self, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor) -> Tensor:
        return self._compose(shared, u, v, task_ids, None)

    def prepend_prompts(self, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor, input_embeds: Tensor) -> Tensor:
        return self._compose(shared, u, v, task_ids, input_embeds)

    def compose_prompts_backward(
        self, grad: Tensor, shared: Tensor, u: Tensor, v: Tensor, task_ids: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        acc = accumulation_type(shared, u, v)
        shared, u, v, task_ids = _as(acc, shared), _as(acc, u), _as(acc, v), task_ids.contiguous()
        (length, hidden), (tasks, _, rank) = shared.shape, u.shape
        if grad.stride(2) != 1 or grad.stride(1) != hidden:  # rows of a longer sequence are read where they lie
            grad = grad.contiguous()
        outs = [shared.new_empty(t.shape, dtype=acc) for t in (shared, u, v)]
        self.run(
            self.module.compose_backward, shared.device,
            grad.data_ptr(), grad.stride(0), _CODES[grad.dtype],
            shared.data_ptr(), u.data_ptr(), v.data_ptr(), tasks, length, rank, hidden, acc == torch.float64,
            task_ids.data_ptr(), task_ids.dtype == torch.int64, task_ids.shape[0],
            *(out.data_ptr() for out in outs),
        )  # fmt: skip
        return tuple(outs)

    def merge_task_vectors(
        self, reference: Tensor, prompts: Tensor, scale: Tensor | None, weights: Tensor | None
    ) -> Tensor:
        acc = accumulation_type(reference, prompts, scale, weights)
        reference, prompts = _common(acc, reference, prompts)
        scale, weights = _as(acc, scale), _as(acc, weights)
        tasks, length, hidden = prompts.shape
        out = prompts.new_empty((length, hidden), dtype=acc)
        self.run(
            self.module.merge, prompts.device,
            reference.data_ptr(), prompts.data_ptr(), _address(scale), _address(weights), tasks, length, hidden,
            _CODES[prompts.dtype], out.data_ptr(),
        )  # fmt: skip
        return out

    def merge_task_vectors_backward(
        self,
        grad: Tensor,
        reference: Tensor,
        prompts: Tensor,
        scale: Tensor | None,
        weights: Tensor | None,
        needs: list[bool],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        acc = accumulation_type(reference, prompts, scale, weights)
        outs = [
            _wanted(prompts, need, t, acc) for need, t in zip(needs, (reference, prompts, scale, weights), strict=True)
        ]
        reference, prompts = _common(acc, reference, prompts)
        grad, scale, weights = _as(acc, grad), _as(acc, scale), _as(acc, weights)
        tasks, length, hidden = prompts.shape
        self.run(
            self.module.merge_backward, prompts.device,
            grad.data_ptr(), reference.data_ptr(), prompts.data_ptr(), _address(scale), _address(weights),
            tasks, length, hidden, _CODES[prompts.dtype], *map(_wanted_address, needs, outs),
        )  # fmt: skip
        return tuple(outs)

    def select_group(self, similarity: Tensor, target: int) -> Tensor:
        (similarity,) = _common(accumulation_type(similarity), similarity)
        if similarity.dtype not in (torch.float32, torch.float64):
            similarity = similarity.float()
        chosen = similarity.new_empty(similarity.shape[0], dtype=torch.bool)
        self.run(
            self.module.select_group,
            similarity.device,
            similarity.data_ptr(),
            similarity.dtype == torch.float64,
            similarity.shape[0],
            target,
            chosen.data_ptr(),
        )
        return chosen
