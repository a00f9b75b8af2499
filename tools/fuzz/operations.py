"""Targets: the public functions of `promptkernels` and the raw operations, against the reference in float64."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import promptkernels as pk
from promptkernels import reference
from tools.fuzz.answers import ANSWERS, check_intact, compare, double, exact_arguments, raw_floor, without_values
from tools.fuzz.calls import CALLS, FLOATS, Maker, spoiled
from tools.fuzz.target import Draw, Finding, Target, check_message

OPS = torch.ops.promptkernels


def targets() -> dict[str, Target]:
    seeds = [np.random.default_rng(seed).bytes(48) for seed in range(64)]
    return {
        "operations": Target(check_public, seeds, longest=64),
        "raw-operations": Target(check_raw, seeds, longest=64),
    }


def check_public(data: bytes) -> bool:
    """Check one call of a public function, with gradients of some of its arguments."""
    make = Maker(Draw(data))
    draw, name = make.draw, make.draw.of(tuple(CALLS))
    call = CALLS[name](make)
    spoilt = draw.of(tuple(call)) if draw.one_in(3) else None
    if spoilt:
        call[spoilt] = spoiled(draw, call[spoilt])
    bad_ids = _has_bad_ids(call)
    function = getattr(pk, name)
    torch.set_num_threads(1 + draw.below(3) if draw.one_in(16) else 1)
    floats = {
        k: v for k, v in call.items() if isinstance(v, Tensor) and v.dtype in FLOATS and v.layout == torch.strided
    }
    floats = {k: v for k, v in floats.items() if not v.is_nested and not v.is_meta}
    before = {k: v.resolve_neg().clone() for k, v in floats.items()}
    wanted = [k for k in floats if name != "select_group" and floats[k].numel() and draw.below(2)]
    leaf_call = {k: v.detach().requires_grad_() if k in wanted else v for k, v in call.items()}
    try:
        out = function(**leaf_call)
    except (ValueError, IndexError) as error:
        check_message(error, inspect.signature(function).parameters)
        if not spoilt and not bad_ids:
            raise Finding(f"{name} refuses what is right: {error}") from error
        return False
    finally:
        torch.set_num_threads(1)  # fastest for the small sizes of the reference
    check_intact(before, call)
    if without_values(name, call):
        return True
    if bad_ids:
        raise Finding(f"{name} accepts task_ids {call['task_ids']} for {call['u'].shape[0]} tasks")
    _check_answer(name, call, leaf_call, out, wanted, make)
    return True


def _has_bad_ids(call: Mapping[str, Any]) -> bool:
    ids, u = call.get("task_ids"), call.get("u")
    if not isinstance(ids, Tensor) or not isinstance(u, Tensor) or u.is_nested or u.dim() == 0:
        return False
    if ids.is_meta or ids.layout != torch.strided or ids.is_nested:
        return False
    return ids.dtype in (torch.int32, torch.int64) and bool(((ids < 0) | (ids >= u.shape[0])).any())


def _check_answer(
    name: str, call: dict[str, Any], leaf_call: dict[str, Any], out: Any, wanted: list[str], make: Maker
) -> None:
    """Check the results and gradients of an accepted call."""
    exact = exact_arguments(call)
    flat = name in ("task_similarity", "svgd_direction") and next(iter(exact.values())).dim() == 2
    if flat:
        for key in ("prompts", "others", "particles", "scores"):
            if exact.get(key) is not None:
                exact[key] = exact[key].unsqueeze(1)
        if exact.get("reference") is not None:
            exact["reference"] = exact["reference"].unsqueeze(0)
    answer = ANSWERS[name](exact)
    first, second = out if isinstance(out, tuple) else (out, ())
    others = second if isinstance(second, tuple) else (second,)
    for place, (got, want) in enumerate(zip((first, *others), answer.outs, strict=bool(others))):
        compare(f"{name}[{place}]", got, want.view(got.shape), answer.floor)
    if not wanted or not first.requires_grad:
        return
    grad = make.floats(*first.shape).to(first.dtype)
    leaves = [leaf_call[key] for key in wanted]
    gradients = dict(zip(wanted, torch.autograd.grad(first, leaves, grad, allow_unused=True), strict=True))
    want_all, floor = answer.backward(double(grad).view(answer.outs[0].shape))
    for key, got in gradients.items():
        if key in want_all:
            compare(f"{name}: gradient of {key}", got, want_all[key].view(got.shape), floor)


def _raw_call(make: Maker) -> tuple[str, dict[str, Any]]:
    """A raw operation with its arguments, in order. Arguments of a backward pass come from a forward pass."""
    draw = make.draw
    name = draw.of((*CALLS, "task_similarity_z", "task_similarity_backward", "svgd_direction_backward",
                    "compose_prompts_backward", "merge_task_vectors_backward"))  # fmt: skip
    base = name.removesuffix("_backward").removesuffix("_z")
    call = CALLS[base](make)
    if base in ("task_similarity", "svgd_direction"):
        wide = ("prompts", "others", "particles", "scores")
        flat = next(iter(call.values())).dim() == 2
        call = {k: v.unsqueeze(1) if flat and k in wide and v is not None else v for k, v in call.items()}
        if flat and call["reference"] is not None:
            call["reference"] = call["reference"].unsqueeze(0)
    if base == "task_similarity":
        order = ("prompts", "reference", "others", "scale", "metric", "eps")
        call = {key: call[key] for key in order if key != "metric" or name != "task_similarity_z"}
    if base == "svgd_direction":
        rule = call["bandwidth"]
        options = (0.0, rule) if isinstance(rule, str) else (float(rule), "fixed")
        call = {key: call[key] for key in ("particles", "scores")}
        call |= {"bandwidth": options[0], "convention": options[1], "per_token": draw.below(2) == 1}
    if not name.endswith("_backward"):
        return name, call
    if "task_ids" in call:
        call["task_ids"] = call["task_ids"].clamp(0, len(call["u"]) - 1)
    out = getattr(OPS, base)(*call.values())
    outs = out if isinstance(out, tuple) else (out,)
    grad = {"grad": make.floats(*outs[0].shape)}
    if name == "task_similarity_backward":
        saved = dict(zip(("similarity", "left_norm", "right_norm"), outs, strict=True))
        return name, {**grad, **call, **saved, "needs": _needs(draw, call, 4)}
    if name == "svgd_direction_backward":
        inputs = {key: call[key] for key in ("particles", "scores")}
        return name, {**grad, **inputs, "kernel": outs[1], "h": outs[2], "per_token": call["per_token"]}
    needs = {"needs": _needs(draw, call, 4)} if name == "merge_task_vectors_backward" else {}
    return name, {**grad, **call, **needs}


def _needs(draw: Draw, call: dict[str, Any], count: int) -> list[bool]:
    values = list(call.values())[:count]
    return [value is not None and draw.below(2) == 1 for value in values]


def check_raw(data: bytes) -> bool:
    """Check one call of a raw operation. torch itself may also refuse a call that does not fit the schema."""
    make = Maker(Draw(data))
    draw = make.draw
    name, call = _raw_call(make)
    spoilt = draw.of(tuple(call)) if draw.below(2) else None
    if spoilt:
        call[spoilt] = spoiled(draw, call[spoilt])
    bad_ids = _has_bad_ids(call)
    try:
        out = getattr(OPS, name)(*call.values())
    except (ValueError, IndexError) as error:
        check_message(error, call)
        if not spoilt and not bad_ids:
            raise Finding(f"{name} refuses what is right: {error}") from error
        return False
    except (RuntimeError, TypeError, OverflowError) as error:
        if not spoilt or not _of_the_schema(error, name):
            raise
        return False
    if bad_ids:
        raise Finding(f"{name} accepts task_ids {call['task_ids']} for {len(call['u'])} tasks")
    if without_values(name, call):
        return True
    exact = list(exact_arguments(call).values())
    outs = out if isinstance(out, tuple) else (out,)
    if name == "prepend_prompts":
        wants: tuple[Tensor, ...] = (torch.cat([reference.compose_prompts(*exact[:4]), exact[4]], dim=1),)
    else:
        want = getattr(reference, name)(*exact)
        wants = want if isinstance(want, tuple) else (want,)
    floor = raw_floor(name, dict(zip(call, exact, strict=True)))
    for place, (got, want) in enumerate(zip(outs, wants, strict=True)):
        compare(f"{name}[{place}]", got, want.double(), floor)
    return True


def _of_the_schema(error: Exception, name: str) -> bool:
    return f"promptkernels::{name}" in str(error) or "Overflow" in repr(error)
