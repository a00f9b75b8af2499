"""Check this machine: what works, what does not and why, and what to do about it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from typing import Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.version import Version

from prompttransfer.files.model_names import hub_fault

# Oldest and newest version that the tests run with.
TESTED = {"python": ("3.10", "3.12"), "torch": ("2.11", "2.13"), "transformers": ("5.17", "5.23")}
_OPTIONAL = {
    "generation": "scores of generated text (BLEU, ROUGE, METEOR)",
    "peft": "checking exported adapters; exporting works without it",
    "triton": "the backend triton",
}
_MODELS_BYTES = 2_000_000_000  # the demo's files, its converted model, and finished stages


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        name: what was checked.
        state: "ok", "note" (something is missing, which may not matter) or "problem" (training cannot run).
        found: result of the check.
        advice: what to do; empty if nothing needs to be done.
    """

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def examine(*, offline: bool = False) -> list[Finding]:
    """Run all checks. offline: do not use the network."""
    findings = [_tested("python", ".".join(map(str, sys.version_info[:3]))), *_required()]
    if all(finding.state != "problem" for finding in findings):  # otherwise torch may not even import
        findings += [*_backends(), *_compute()]
    findings += [*_compilers(), _cache(), _demo(), _hub(offline), *_optional()]
    return findings


def _tested(name: str, version: str) -> Finding:
    first, last = TESTED[name]
    release = Version(version).release[:2]
    if Version(first).release <= release <= Version(last).release:
        return Finding(name, "ok", version)
    older = release < Version(first).release
    advice = f"tested with {first} to {last}: if something fails, try {'a newer' if older else 'an older'} version"
    return Finding(name, "note", version, advice)


def _requirements(extra: str = "") -> list[Requirement]:
    """Requirements of the installed package, or of one of its extras."""
    every = map(Requirement, metadata.requires("promptkernels") or ())
    if not extra:
        return [each for each in every if each.marker is None]
    return [each for each in every if each.marker is not None and each.marker.evaluate({"extra": extra})]


def _lack(requirement: Requirement) -> str:
    """Reason why a requirement is not met; empty if it is."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    fits = requirement.specifier.contains(version, prereleases=True)
    return "" if fits else f"{requirement.name} {version} is installed, {requirement.specifier} is required"


def _required() -> Iterator[Finding]:
    needed = [*_requirements(), *_requirements("transfer")]
    for name in ("torch", "transformers"):
        if not any(requirement.name == name and _lack(requirement) for requirement in needed):
            yield _tested(name, metadata.version(name))
    lacking = [lack for requirement in needed if (lack := _lack(requirement))]
    if lacking:
        yield Finding("packages", "problem", "; ".join(lacking), "pip install 'promptkernels[transfer]'")
    else:
        yield Finding("packages", "ok", f"all {len(needed)} that training needs are installed")


def _optional() -> Iterator[Finding]:
    for extra, purpose in _OPTIONAL.items():
        requirements = _requirements(extra)
        lacking = [lack for requirement in requirements if (lack := _lack(requirement))]
        if not requirements:
            yield Finding(f"extra {extra}", "note", "unknown to the installed version", "reinstall promptkernels")
        elif lacking:
            advice = f"for {purpose}: pip install 'promptkernels[{extra}]'"
            yield Finding(f"extra {extra}", "note", "; ".join(lacking), advice)
        else:
            yield Finding(f"extra {extra}", "ok", "installed")
    lack = _lack(Requirement("bitsandbytes"))
    advice = "for quantized models on a GPU: pip install bitsandbytes" if lack else ""
    yield Finding("bitsandbytes", "note" if lack else "ok", lack or metadata.version("bitsandbytes"), advice)


def _backends() -> Iterator[Finding]:
    import torch

    import promptkernels
    from promptkernels.backends.registry import choose

    device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, status in promptkernels.backends().items():
        state, advice = "ok", ""
        if device in status.devices and not status.available:
            state = "note"
            if name == device:
                advice = "a slower backend is used; reinstall promptkernels where a compiler is available"
        shown = ", ".join(f"{key} {value}" for key, value in status.facts.items() if key in ("isa", "cuda", "triton"))
        detail = "runs here" if status.available else status.reason
        yield Finding(f"backend {name}", state, f"{detail} ({shown})" if shown else detail, advice)
    try:
        chosen = choose(device, torch.float32).name
        yield Finding("operations", "ok", f"{device} tensors are served by the backend {chosen}")
    except (ValueError, RuntimeError) as failure:
        advice = "unset PROMPTKERNELS_BACKEND for the automatic choice"
        yield Finding("operations", "problem", str(failure).splitlines()[0], advice)


def _compute() -> Iterator[Finding]:
    import torch

    from prompttransfer.models import native_bfloat16

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{each.name} ({each.total_memory / 1e9:.0f} GB)" for each in devices)
        yield Finding("GPU", "ok", names)
    elif shutil.which("nvidia-smi"):
        advice = "install a torch build with CUDA, or check the driver with nvidia-smi"
        yield Finding("GPU", "note", f"there is an NVIDIA driver, but torch {torch.__version__} finds no GPU", advice)
    else:
        yield Finding("GPU", "ok", "none: training runs on the CPU")
    short = native_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    support = "native: the frozen model uses it" if short else "not native: the frozen model uses float32"
    yield Finding("bfloat16", "ok", support)
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    fits = threads <= cores
    advice = "" if fits else f"more threads than processors are slow: set OMP_NUM_THREADS={cores}"
    yield Finding("threads", "ok" if fits else "note", f"{threads} on {cores} processors", advice)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    yield Finding("memory", "ok", f"{memory / 1e9:.0f} GB; `prompttransfer validate RECIPE` estimates what a run needs")


def _compilers() -> Iterator[Finding]:
    names = {"C++ compiler": ("CXX", "c++", "g++", "clang++"), "nvcc": ("CUDACXX", "nvcc", "/usr/local/cuda/bin/nvcc")}
    for name, (variable, *usual) in names.items():
        candidates = [os.environ[variable]] if os.environ.get(variable) else usual
        path = next(filter(None, map(shutil.which, candidates)), None)
        if path is None:
            yield Finding(name, "ok", f"not found (tried {', '.join(candidates)}); only needed for installation")
            continue
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
        lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] or ["unknown version"]
        release = next((line for line in lines if "release" in line), lines[0])
        yield Finding(name, "ok", f"{path}: {release}")


def _cache() -> Finding:
    from prompttransfer.files.cache import cache_folder, folder_bytes
    from prompttransfer.files.cache_parts import size
    from prompttransfer.files.paths import NoHome

    try:
        folder = cache_folder()
    except NoHome as failure:
        return Finding("cache", "problem", *str(failure).split("; ", 1))
    advice = "set PROMPTTRANSFER_CACHE to a writable folder"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as failure:
        return Finding("cache", "problem", f"{folder} is not writable: {failure.strerror}", advice)
    free = shutil.disk_usage(folder).free
    usage = f"{folder}: {size(folder_bytes(folder))}, {size(free)} free"
    if free < _MODELS_BYTES:
        return Finding("cache", "note", usage, "the demo needs about 2 GB: set PROMPTTRANSFER_CACHE to another disk")
    return Finding("cache", "ok", usage)


def _demo() -> Finding:
    from prompttransfer.files.assets import is_fetched
    from prompttransfer.files.assets.table import ASSETS
    from prompttransfer.files.paths import NoHome

    try:
        lacking = [asset for name, asset in ASSETS.items() if not is_fetched(name)]
    except NoHome:
        return Finding("demo", "note", "there is no cache folder")
    if not lacking:
        return Finding("demo", "ok", "model and data are in the cache")
    absent = f"{len(lacking)} of {len(ASSETS)} files are not in the cache"
    if find_spec("pip") is None:
        return Finding("demo", "note", f"{absent}, and pip is not installed", f"{sys.executable} -m ensurepip")
    megabytes = sum(asset.megabytes for asset in lacking)
    return Finding(
        "demo", "note", absent, f"downloaded when needed ({megabytes:.0f} MB), or now: prompttransfer assets --fetch"
    )


def _hub(offline: bool) -> Finding:
    place = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    without = "local folders and the demo work without it; set HF_ENDPOINT to use a mirror"
    if offline:
        return Finding("model hub", "ok", "not checked (--offline)")
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return Finding("model hub", "note", "not checked: HF_HUB_OFFLINE is set", "unset it to download models")
    if fault := hub_fault(place):
        return Finding("model hub", "note", f"{place} cannot be reached: {fault}", without)
    return Finding("model hub", "ok", f"{place} answers")
