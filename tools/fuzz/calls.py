"""Build calls of the operations from bytes: sizes, element types, memory layouts, options, and one invalid argument.

Numbers are eighths of small integers, so products and sums are exact in float32 and any error of a kernel shows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from promptkernels.ops.similarity import METRICS
from promptkernels.ops.svgd import CONVENTIONS
from tools.fuzz.target import Draw

# Warnings of torch when creating tensors of the kinds that must be refused.
warnings.filterwarnings("ignore", category=UserWarning, module=r"torch|bench\.fuzz")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class Maker:
    """Builds tensors from a draw."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self._rng = np.random.default_rng(draw.below(65536))

    def size(self, most: int, rarely: int | None = None) -> int:
        most = rarely if rarely and self.draw.one_in(128) else most
        return 1 + self.draw.below(most)

    def floats(self, *shape: int) -> Tensor:
        values = self._rng.integers(-64, 65, shape) / 8
        if self.draw.one_in(16) and values.size:
            values[tuple(self._rng.integers(0, shape))] = 0.0
        if self.draw.one_in(32) and values.ndim > 1 and len(values) > 1:
            values[-1] = values[0]  # equal rows, with no direction between them
        return self.laid_out(torch.from_numpy(np.asarray(values)).to(self.draw.of(FLOATS)))

    def ids(self, count: int, tasks: int) -> Tensor:
        values = torch.from_numpy(self._rng.integers(0, tasks, count))
        if count and self.draw.one_in(16):
            values[self.draw.below(count)] = self.draw.of((tasks, -1, 2**40, -(2**63)))
        return self.laid_out(values.to(self.draw.of((torch.int64, torch.int32))))

    def laid_out(self, tensor: Tensor) -> Tensor:
        """The same values elsewhere in memory, surrounded by values that would show in a result."""
        around = float("nan") if tensor.is_floating_point() else 2**31 - 1
        match self.draw.of(("plain", "permuted", "sliced", "offset", "negative", "zero")):
            case "permuted" if tensor.dim() > 1:
                return tensor.transpose(0, -1).contiguous().transpose(0, -1)
            case "sliced":
                buffer = tensor.new_full([n + 3 for n in tensor.shape], around)
                return buffer[tuple(slice(1, 1 + n) for n in tensor.shape)].copy_(tensor)
            case "offset":
                buffer = tensor.new_full((tensor.numel() + 18,), around)
                return buffer[17:-1].view_as(tensor).copy_(tensor)
            case "negative" if tensor.is_floating_point():
                return torch._neg_view(-tensor)  # memory holds other signs than the tensor
            case "zero" if tensor.is_floating_point() and self.draw.one_in(8):
                return torch._efficientzerotensor(tensor.shape, dtype=tensor.dtype)  # has no memory at all
        return tensor

    def maybe(self, make: Callable[[], Tensor]) -> Tensor | None:
        return make() if self.draw.below(2) else None


def spoiled(draw: Draw, value: Any) -> Any:
    """An invalid value in place of an argument."""
    if isinstance(value, Tensor):
        dim = draw.below(value.dim()) if value.dim() else 0
        match draw.of(("dtype", "rank", "size", "empty", "place", "kind")):
            case "dtype":
                kinds = (torch.int32, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint8, torch.int64)
                return value.to(draw.of(kinds))
            case "rank":
                return value[0] if draw.below(2) and value.shape[:1] > (0,) else value.unsqueeze(dim)
            case "size" if value.dim():
                fewer = value.narrow(dim, 0, max(value.shape[dim] - 1, 0))
                return torch.cat([value, value], dim) if draw.below(2) else fewer
            case "empty" if value.dim():
                return value.narrow(dim, 0, 0)
            case "place":
                return value.to("meta")
            case "kind":
                return _other_kind(draw, value)
        return value.to(torch.complex64)
    invalid_values = (
        None,
        -1,
        0,
        2**70,
        10**400,
        0.0,
        -1.0,
        1e-320,
        math.inf,
        math.nan,
        "cosine",
        "",
        "\0",
        b"",
        [],
        {},
        True,
    )
    return draw.of((*invalid_values, torch.tensor(1.0), np.float64(2.0)))


def _other_kind(draw: Draw, value: Tensor) -> Any:
    dense = value.resolve_neg().clone()
    match draw.below(7):
        case 0:
            return None
        case 1:
            return dense.double().tolist()
        case 2:
            return dense.double().numpy()
        case 3:
            return dense.to_sparse()
        case 4 if dense.dim() == 2:
            return dense.to_sparse_csr()
        case 5:
            return torch.quantize_per_tensor(dense.float(), 0.5, 0, torch.qint8)
    return torch.nested.nested_tensor([dense.float()])


def _similarity_call(make: Maker) -> dict[str, Any]:
    draw = make.draw
    t, length, hidden = make.size(9, 70), make.size(5), make.size(40, 3000)
    flat = draw.one_in(4)
    inner = (hidden,) if flat else (length, hidden)
    return {
        "prompts": make.floats(t, *inner),
        "reference": make.maybe(lambda: make.floats(*inner)),
        "others": make.maybe(lambda: make.floats(make.size(6), *inner)),
        "scale": make.maybe(lambda: make.floats(t, 1 if flat else length)),
        "metric": draw.of(METRICS),
        "eps": draw.of((1e-8, 1e-3, 1.0)),
    } | ({"metric": "cosine", "return_z": True} if not flat and draw.one_in(3) else {})


def _svgd_call(make: Maker) -> dict[str, Any]:
    draw = make.draw
    m, length, hidden = make.size(8, 70), make.size(5), make.size(40, 3000)
    flat = draw.one_in(4)
    inner = (hidden,) if flat else (length, hidden)
    return {
        "particles": make.floats(m, *inner),
        "scores": make.floats(m, *inner),
        "reference": make.maybe(lambda: make.floats(*inner)),
        "bandwidth": draw.of((*CONVENTIONS, 0.125, 4.0, 64)),
        "per_token": not flat and draw.below(2) == 1,
        "return_kernel": True,
    }


def _compose_call(make: Maker, text: bool) -> dict[str, Any]:
    t, length, rank, hidden = make.size(5), make.size(5), make.size(3), make.size(40, 3000)
    batch = make.draw.below(9)
    call = {
        "shared": make.floats(length, hidden),
        "u": make.floats(t, length, rank),
        "v": make.floats(t, rank, hidden),
        "task_ids": make.ids(batch, t),
    }
    return call | ({"input_embeds": make.floats(batch, make.draw.below(6), hidden)} if text else {})


def _merge_call(make: Maker) -> dict[str, Any]:
    t, length, hidden = make.size(9), make.size(5), make.size(40, 3000)
    return {
        "reference": make.floats(length, hidden),
        "prompts": make.floats(t, length, hidden),
        "scale": make.maybe(lambda: make.floats(t, length)),
        "weights": make.maybe(lambda: make.floats(t)),
    }


def _group_call(make: Maker) -> dict[str, Any]:
    n = make.size(12)
    return {"similarity": make.floats(n, n), "target": make.draw.below(n)}


CALLS: dict[str, Callable[[Maker], dict[str, Any]]] = {
    "task_similarity": _similarity_call,
    "svgd_direction": _svgd_call,
    "compose_prompts": lambda make: _compose_call(make, text=False),
    "prepend_prompts": lambda make: _compose_call(make, text=True),
    "merge_task_vectors": _merge_call,
    "select_group": _group_call,
}
