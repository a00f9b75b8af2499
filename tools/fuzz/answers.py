"""Expected results of a call from the reference in float64, and the allowed error."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from promptkernels import reference
from tools.fuzz.target import Finding

_RELATIVE = 2e-5
_ROUNDING = {torch.bfloat16: 2**-8, torch.float16: 2**-11}


def double(value: Any) -> Any:
    """Convert a number or tensor for the reference in float64."""
    if isinstance(value, Tensor):
        return value.detach().resolve_neg().double() if value.is_floating_point() else value
    return value


def exact_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for the reference, with values that act as numbers (True, 2**70) converted."""
    kinds: dict[str, Callable[[Any], Any]] = {"eps": float, "bandwidth": float, "target": int}
    return {
        key: kinds[key](value) if key in kinds and not isinstance(value, str) else double(value)
        for key, value in call.items()
    }


def compare(name: str, got: Tensor, want: Tensor, floor: float = 0.0) -> None:
    if got.shape != want.shape:
        raise Finding(f"{name}: shape {tuple(got.shape)}, want {tuple(want.shape)}")
    if not want.numel() or got.is_meta:
        return
    got, want, kind = got.detach().double(), want.double(), got.dtype
    if not want.isfinite().all():  # a drawn option overflows; only which numbers are finite is defined
        return
    if kind == torch.float16:  # a gradient may overflow the type of its leaf
        held = want.abs() < torch.finfo(kind).max
        got, want = torch.where(held, got, 0.0), torch.where(held, want, 0.0)
    allowed = floor + (_RELATIVE + _ROUNDING.get(kind, 0.0)) * float(want.abs().max())
    worst = float((got - want).abs().max())
    if not worst <= allowed + 1e-30:
        raise Finding(
            f"{name}: off by {worst:.3g}, allowed {allowed:.3g}: got {got.flatten()[:8]}, want {want.flatten()[:8]}"
        )


def _norm_floor(grad: Tensor, *norms: Tensor) -> float:
    """Error floor of gradients of a cosine, whose terms have the size grad / norm and cancel for parallel vectors."""
    smallest = min((float(n[n > 0].min()) for n in norms if bool((n > 0).any())), default=1.0)
    return 1e-5 * float(grad.abs().max()) * sum(len(n) for n in norms) / smallest


def check_intact(before: Mapping[str, Tensor], call: Mapping[str, Any]) -> None:
    for name, kept in before.items():
        now = call[name].detach().resolve_neg()
        if not torch.equal(now, kept):
            raise Finding(f"{name} was written to")


def without_values(name: str, call: Mapping[str, Any]) -> bool:
    places = {value.is_meta for value in call.values() if isinstance(value, Tensor)}
    if len(places) > 1:
        raise Finding(f"{name} accepts tensors on several devices")
    return True in places


class Answer:
    """Expected results of a call from the reference in float64, and gradients by argument.

    floor: error due to cancellation, in addition to the error relative to the largest number.
    """

    floor = 0.0

    def __init__(self, call: dict[str, Any]) -> None:
        self.call = call
        self.outs = self.forward(call)

    def forward(self, call: dict[str, Any]) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def backward(self, grad: Tensor) -> tuple[dict[str, Tensor], float]:
        raise NotImplementedError


class _Similarity(Answer):
    def forward(self, call: dict[str, Any]) -> tuple[Tensor, ...]:
        self.arguments = [call[key] for key in ("prompts", "reference", "others", "scale", "metric", "eps")]
        self.saved = reference.task_similarity(*self.arguments)
        if not call.get("return_z"):
            return self.saved[:1]
        prompts, start, others, scale, _, eps = self.arguments
        return self.saved[0], reference.task_similarity_z(prompts, start, others, scale, eps)[3]

    def backward(self, grad: Tensor) -> tuple[dict[str, Tensor], float]:
        names = ("prompts", "reference", "others", "scale")
        needs = [self.call[key] is not None for key in names]
        gradients = reference.task_similarity_backward(grad, *self.arguments, *self.saved, needs)
        cosine = self.call["metric"] != "token_mean_dot"
        floor = _norm_floor(grad, *self.saved[1:]) if cosine else 1e-5 * float(grad.abs().max()) * 64
        return dict(zip(names, gradients, strict=True)), floor * (64 if needs[3] else 8)


class _Svgd(Answer):
    def forward(self, call: dict[str, Any]) -> tuple[Tensor, ...]:
        rule = call["bandwidth"]
        options = (0.0, rule) if isinstance(rule, str) else (float(rule), "fixed")
        arguments = call["particles"], call["scores"], *options, bool(call["per_token"])
        self.saved = phi, kernel, h = reference.svgd_direction(*arguments)
        spread = h[h > 0]
        self.pull = float(2 / spread.min()) if spread.numel() else 0.0
        # For equal particles, numpyro's rule gives the machine epsilon as h, which differs in float32.
        self.floor = (
            1e-5 * (float(call["scores"].abs().max()) + 16 * min(self.pull, 1e3)) if self.pull < 1e5 else math.inf
        )
        return phi, kernel, h

    def backward(self, grad: Tensor) -> tuple[dict[str, Tensor], float]:
        call, (_, kernel, h) = self.call, self.saved
        gradients = reference.svgd_direction_backward(
            grad, call["particles"], call["scores"], kernel, h, bool(call["per_token"])
        )
        if math.isinf(self.floor):
            return dict(zip(("particles", "scores"), gradients, strict=True)), math.inf
        size = float(call["particles"].abs().max()) * call["particles"].shape[-1]
        floor = self.floor * float(grad.abs().max()) * len(grad) * (1 + self.pull * size) * 4
        return dict(zip(("particles", "scores"), gradients, strict=True)), floor


class _Compose(Answer):
    floor = 1e-6

    def forward(self, call: dict[str, Any]) -> tuple[Tensor, ...]:
        self.factors = call["shared"], call["u"], call["v"], call["task_ids"]
        composed = reference.compose_prompts(*self.factors)
        embeds = call.get("input_embeds")
        return (composed if embeds is None else torch.cat([composed, embeds], dim=1),)

    def backward(self, grad: Tensor) -> tuple[dict[str, Tensor], float]:
        length = len(self.call["shared"])
        gradients = reference.compose_prompts_backward(grad[:, :length], *self.factors)
        floor = 1e-5 * float(grad.abs().max()) * len(grad) if grad.numel() else 0.0
        return {**dict(zip(("shared", "u", "v"), gradients, strict=True)), "input_embeds": grad[:, length:]}, floor


class _Merge(Answer):
    floor = 1e-5

    def forward(self, call: dict[str, Any]) -> tuple[Tensor, ...]:
        self.arguments = [call[key] for key in ("reference", "prompts", "scale", "weights")]
        return (reference.merge_task_vectors(*self.arguments),)

    def backward(self, grad: Tensor) -> tuple[dict[str, Tensor], float]:
        names = ("reference", "prompts", "scale", "weights")
        needs = [self.call[key] is not None for key in names]
        gradients = reference.merge_task_vectors_backward(grad, *self.arguments, needs)
        return dict(zip(names, gradients, strict=True)), 1e-5 * float(grad.abs().max()) * len(self.call["prompts"])


class _Group(Answer):
    def forward(self, call: dict[str, Any]) -> tuple[Tensor, ...]:
        return (reference.select_group(call["similarity"], int(call["target"])).double(),)


ANSWERS: dict[str, type[Answer]] = {
    "task_similarity": _Similarity,
    "svgd_direction": _Svgd,
    "compose_prompts": _Compose,
    "prepend_prompts": _Compose,
    "merge_task_vectors": _Merge,
    "select_group": _Group,
}


def raw_floor(name: str, call: dict[str, Any]) -> float:
    if name == "svgd_direction":
        return _Svgd(
            {**call, "bandwidth": call["bandwidth"] if call["convention"] == "fixed" else call["convention"]}
        ).floor
    if not name.endswith("_backward"):
        return 1e-5
    grad = float(call["grad"].abs().max()) if call["grad"].numel() else 0.0
    if name == "task_similarity_backward":
        dot = call["metric"] == "token_mean_dot"
        floor = 1e-5 * grad * 64 if dot else _norm_floor(call["grad"], call["left_norm"], call["right_norm"])
        return floor * (64 if call["scale"] is not None else 8)
    if name == "svgd_direction_backward":
        h = call["h"][call["h"] > 0]
        pull = float(2 / h.min()) if h.numel() else 0.0
        x, s = call["particles"], float(call["scores"].abs().max())
        size = float(x.abs().max()) * x.shape[-1]
        return 4e-5 * grad * len(x) * (s + 16 * min(pull, 1e3)) * (1 + pull * size) if pull < 1e5 else math.inf
    return 1e-5 * grad * max(len(call["grad"]), len(call.get("prompts", ())), 1)
