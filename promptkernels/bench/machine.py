"""Facts that the numbers depend on: machine, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import promptkernels as pk


def facts(device: torch.device) -> dict[str, Any]:
    described = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "date": date.today().isoformat(),
        "commit": commit(),
        "promptkernels": pk.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    for package in ("peft", "torchmetrics", "transformers", "triton"):
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            continue
    if device.type == "cuda":
        described["capability"] = "sm_{}{}".format(*torch.cuda.get_device_capability(device))
    for name, status in pk.backends().items():
        if status.available and status.facts:
            described[f"backend {name}"] = ", ".join(f"{key} {_portable(value)}" for key, value in status.facts.items())
    return described


def _portable(fact: str) -> str:
    """Reduce a path to its name, because folders tell something about a person's disk and nothing about the numbers."""
    return Path(fact).name if Path(fact).is_absolute() else fact


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit() -> str:
    """Commit of the running checkout, marked if its package has uncommitted changes; else the version.

    BENCH_COMMIT names it where the package is a copy without history.
    """
    if named := os.environ.get("BENCH_COMMIT"):
        return named
    root = Path(pk.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return f"version {pk.__version__}"

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "promptkernels", "csrc")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return f"version {pk.__version__}"
