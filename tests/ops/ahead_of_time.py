"""Compiles the Triton kernels for a GPU that is not here, with the arguments that the operations launch them with.

python tests/ops/ahead_of_time.py cuda 90     (or: hip gfx942; with `short` behind it, few sizes only)

It prints one line of JSON per compiled kernel: its name, the types of its tensors, the compile-time arguments, and the
resources of a program. A process of its own, because Triton then believes that its active driver is that GPU's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from promptkernels.backends.triton import BACKEND

tk = SimpleNamespace(**BACKEND.functions)
FAMILIES = ("gram", "similarity", "svgd", "compose", "merge", "group")
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Absent:
    """A driver with the functions that Triton needs before it compiles."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def spilled(compiled: Any) -> int:
    """Bytes of local memory per thread."""
    if "amdgcn" in compiled.asm:
        return int(re.search(r"\.private_segment_fixed_size: (\d+)", compiled.asm["amdgcn"])[1])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.check_output([CUOBJDUMP, "--dump-resource-usage", file.name], text=True)
    return int(re.search(r"STACK:(\d+)", usage)[1])


class Compiler:
    """Takes the place of `launch`: compiles, and prints what came out if it is new."""

    def __init__(self) -> None:
        self.rows, self.seen = 0, set()

    def __call__(self, kernel: Any, grid: tuple[int, ...], *arguments: Any, **meta: Any) -> None:
        compiled = kernel.warmup(*arguments, grid=grid, **meta, enable_fp_fusion=True)
        if (compiled.hash, self.rows) in self.seen:
            return
        self.seen.add((compiled.hash, self.rows))
        facts = {
            "kernel": kernel.fn.__name__,
            "rows": self.rows,
            "types": sorted({str(a.dtype).removeprefix("torch.") for a in arguments if torch.is_tensor(a)}),
            "meta": {name: str(value) for name, value in meta.items()},
            "shared": compiled.metadata.shared,
            "spilled": spilled(compiled),
            "tensor_cores": bool(re.search(r"mma\.sync|wgmma|tcgen05\.mma", compiled.asm.get("ptx", ""))),
            "wide_loads": bool(re.search(r"cp\.async\.cg|ld\.global[\w.:]*\.v4", compiled.asm.get("ptx", ""))),
        }
        print(json.dumps(facts), flush=True)


def similarity(rows: int, dtype: torch.dtype, every_option: bool) -> None:
    prompts, others, scale = new(rows, 100, 768, dtype), new(4, 100, 768, dtype), new(rows, 100, dtype)
    reference = new(100, 768, dtype)
    metrics = ("cosine", "token_mean_cosine", "token_mean_dot") if every_option else ("cosine",)
    calls = [(reference, None, scale), (reference, others, scale)]
    if every_option:
        calls += [(None, None, None), (None, others, None)]
    for metric in metrics:
        for start, right, factors in calls:
            saved = tk.task_similarity(prompts, start, right, factors, metric, 1e-8)
            needs = [True, start is not None, right is not None, factors is not None]
            tk.task_similarity_backward(saved[0], prompts, start, right, factors, metric, 1e-8, *saved, needs)
    for start, right, factors in calls:
        tk.task_similarity_z(prompts, start, right, factors, 1e-8)


def svgd(rows: int, dtype: torch.dtype, every_option: bool) -> None:
    particles = new(rows, 100, 768, dtype)
    for per_token in (False, True) if every_option else (False,):
        for convention in ("fixed", "liu2016", "numpyro", "blackjax"):
            phi, kernel, h = tk.svgd_direction(particles, particles, 1.0, convention, per_token)
        tk.svgd_direction_backward(phi, particles, particles, kernel, h, per_token)


def compose(dtype: torch.dtype) -> None:
    shared, u, v = new(100, 768, dtype), new(8, 100, 2, dtype), new(8, 2, 768, dtype)
    ids, embeds = torch.zeros(4, dtype=torch.int64), new(4, 9, 768, dtype)
    tk.compose_prompts(shared, u, v, ids)
    joined = tk.prepend_prompts(shared, u, v, ids.int(), embeds)
    tk.compose_prompts_backward(joined[:, :100], shared, u, v, ids)


def merge(rows: int, dtype: torch.dtype) -> None:
    prompts, reference = new(rows, 100, 768, dtype), new(100, 768, dtype)
    for scale, weights in ((new(rows, 100, dtype), new(rows, dtype)), (None, None)):
        tk.merge_task_vectors(reference, prompts, scale, weights)
        needs = [True, True, scale is not None, weights is not None]
        tk.merge_task_vectors_backward(reference, reference, prompts, scale, weights, needs)


def new(*shape: Any) -> torch.Tensor:
    """Zeros of the given sizes; the last argument is the type."""
    return torch.zeros(shape[:-1], dtype=shape[-1])


def main(kind: str, arch: str, extent: str = "whole") -> None:
    driver.set_active(Absent(GPUTarget(kind, int(arch) if kind == "cuda" else arch, 32 if kind == "cuda" else 64)))
    compiler = Compiler()
    for family in FAMILIES:
        import_module(f"promptkernels.backends.triton_kernels.{family}").launch = compiler
    # Every option in float32; the other types and sizes change what is loaded and how large a tile is.
    few = [(6, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64)]
    many = [(rows, dtype) for rows in (64, 32, 100) for dtype in (torch.float32, torch.float64)]
    for rows, dtype in few + (many[:1] if extent == "short" else many):
        compiler.rows = rows
        every_option = (rows, dtype) == (6, torch.float32)
        similarity(rows, dtype, every_option)
        svgd(rows, dtype, every_option)
        tk.select_group(new(rows, rows, dtype), 0)
        if rows == 6:
            compose(dtype)
            merge(rows, dtype)


if __name__ == "__main__":
    main(*sys.argv[1:])
