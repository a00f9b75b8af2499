"""The parts to run on a GPU, their order and their times: correctness first, then speed, then long compilations."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.gpu.running import ROOT, Part

# Our kernels have this word in their names, mangled or not; torch's kernels do not.
OURS = "promptkernels"
_SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy", "MemoryWorkloadAnalysis", "WarpStateStats")
_LARGE = ["L=512", "S=1024"]  # words in the names of the benchmark's large cases


@dataclass(frozen=True)
class Target:
    """A device in torch's notation, and the backends to run on it. Other names are for a rehearsal."""

    device: str = "cuda"
    cuda: str = "cuda"
    cuda_runner: str = "cuda@cuda"
    triton_runner: str = "triton@cuda"

    @property
    def real(self) -> bool:
        return self.device == "cuda"


def parts(target: Target, python: str, work: Path) -> list[Part]:
    """All parts in their order; 765 seconds together."""
    where = ["--device", target.device]
    check = [python, "-m", "bench.gpu.check", *where, "--backend", target.cuda]
    profiled = [python, "-m", "bench.gpu.profiled", *where, "--backend", target.cuda]
    device = [python, "-m", "bench.gpu.device", *where, "--site", str(work.parent / "site")]
    ncu, sanitizer = _tool("ncu"), _tool("compute-sanitizer")
    profile = [
        ncu or "", "--clock-control", "none", "--kernel-name-base", "demangled", "--kernel-name", f"regex:{OURS}",
        *(word for section in _SECTIONS for word in ("--section", section)),
        "--csv", "--log-file", str(work / "profile/profile.csv"), *profiled,
    ]  # fmt: skip

    def sanitize(tool: str, seconds: float) -> Part:
        command = [sanitizer or "", "--tool", tool, "--kernel-name", f"kns={OURS}", "--error-exitcode", "99"]
        return Part(
            tool, seconds, [*command, *check, "--short"] if sanitizer else None,
            # torch's caching allocator would hide out-of-bounds accesses within its blocks
            {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, "device", "no compute-sanitizer",
        )  # fmt: skip

    def large(name: str, seconds: float, words: str) -> Part:
        command = _bench(python, target, work / name, parts=words) if target.real else None
        return Part(name, seconds, command, {}, "device", "too long for a CPU")

    replayed = _training(python, target, work / "replayed", "training-graphs,scoring-graphs") if target.real else None
    return [
        Part("device", 15, device),
        Part("check", 50, check, needs="device"),
        Part("tests", 65, _tests(python, target.cuda_runner), needs="device"),
        Part("models", 45, [python, "-m", "bench.gpu.models", *where], needs="device"),
        Part("graphs", 10, _graph_tests(python, target), needs="device"),
        Part("bench", 75, _bench(python, target, work / "bench", "--no-compile"), needs="device"),
        sanitize("memcheck", 15),
        sanitize("racecheck", 40),
        sanitize("synccheck", 15),
        Part("profile", 35, profile if ncu else None, {}, "device", "no ncu"),
        large("step", 35, "step"),
        Part("training", 80, _training(python, target, work / "training", "training,scoring,memory")),
        Part("replayed", 35, replayed, {}, "graphs", "a CPU has no graphs"),
        Part("training-1b", 90, _training(python, target, work / "training-1b", "training,memory", model="llama-1b")),
        Part("triton", 40, _tests(python, target.triton_runner)),
        Part("triton-bench", 30, _bench(python, target, work / "triton-bench", "--no-compile", backend="triton")),
        Part("compiled", 55, _bench(python, target, work / "compiled"), needs="device"),
        large("studies", 10, "sweep spread"),
        Part("attention", 25, _training(python, target, work / "attention", "attention")),  # compiles FlexAttention
    ]


def _tool(name: str) -> str | None:
    return shutil.which(name) or shutil.which(f"/usr/local/cuda/bin/{name}")


def _tests(python: str, runner: str) -> list[str]:
    """The tests of one backend on one device. pytest fails if there are none."""
    parallel = ["-n", str(min(12, os.cpu_count() or 1))] if find_spec("xdist") and (os.cpu_count() or 1) > 2 else []
    # The source tree must not be on the path: it has no compiled module, or one from another build.
    options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=tests", *parallel, "--runner", runner]
    if "emulated" in runner:  # a rehearsal: one file is enough
        return [python, "-m", "pytest", *options, "-m", "not large", "tests/ops/test_degenerate.py"]
    return [python, "-m", "pytest", *options, "-m", "not slow and not nightly", "tests/ops"]


def _graph_tests(python: str, target: Target) -> list[str]:
    """The tests of CUDA graphs, which `--runner` would leave out. In a rehearsal, of their imitation."""
    options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=tests", "-k", "cuda]" if target.real else "cpu]"]
    return [python, "-m", "pytest", *options, "tests/transfer/models/test_cuda_graphs.py"]


def _bench(
    python: str, target: Target, output: Path, *options: str, backend: str = "", parts: str = "cases"
) -> list[str]:
    words, seconds = (_LARGE if backend == "triton" else []), "0.4"
    backend = backend or target.cuda
    if not target.real:
        words, seconds, backend = (["similarity T=6"] if parts == "cases" else []), "0.01", "reference"
    command = [python, "-m", "promptkernels", "bench", *words, *options, "--device", target.device]
    return [*command, "--backend", backend, "--seconds", seconds, "--output", str(output), "--parts", *parts.split()]


def _training(python: str, target: Target, output: Path, parts: str, model: str = "llama") -> list[str]:
    command = [python, str(ROOT / "bench/training.py"), "--device", target.device, "--model", model, "--parts", parts]
    real, rehearsed = ["--text", "40", "--rounds", "3"], ["--small", "--rounds", "1", "--updates", "1", "--rows", "8"]
    return [*command, *(real if target.real else rehearsed), "--json", str(output / "training.json")]
