"""Registers, spills and shared memory of every kernel, from the output of ``nvcc -Xptxas -v``: one line each.

    python cmake/ptxas_report.py < build.log

The names come from ``c++filt`` where there is one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers(?:.*?, (\d+) bytes smem)?")


@dataclass
class Kernel:
    """What one kernel needs on one architecture; spilled, stack and shared in bytes (per thread, thread, block)."""

    name: str
    architecture: str
    registers: int = 0
    spilled: int = 0
    stack: int = 0
    shared: int = 0


def parse(log: str) -> list[Kernel]:
    """The kernels of a build log, in its order."""
    kernels: list[Kernel] = []
    for line in log.splitlines():
        if entry := ENTRY.search(line):
            kernels.append(Kernel(*entry.groups()))
        elif kernels and (spills := SPILLS.search(line)):
            stack, stores, loads = map(int, spills.groups())
            kernels[-1].stack, kernels[-1].spilled = stack, stores + loads
        elif kernels and (used := USED.search(line)):
            kernels[-1].registers, kernels[-1].shared = int(used[1]), int(used[2] or 0)
    return kernels


def readable(names: list[str]) -> list[str]:
    """Demangled, without namespaces and arguments."""
    if shutil.which("c++filt"):
        done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
        names = done.stdout.splitlines()
    names = [re.sub(r"\(anonymous namespace\)::|promptkernels::|cuda::|^void ", "", name) for name in names]
    return [re.sub(r"\(.*", "", name) for name in names]


def report(kernels: list[Kernel]) -> list[str]:
    """One line per kernel and architecture."""
    names = readable([kernel.name for kernel in kernels])
    width = max(map(len, names), default=0)
    return [
        f"{name:{width}}  {kernel.architecture:7} {kernel.registers:3} registers, {kernel.spilled} bytes spilled, "
        f"{kernel.stack} stack, {kernel.shared} shared"
        for name, kernel in zip(names, kernels, strict=True)
    ]


if __name__ == "__main__":
    kernels = parse(sys.stdin.read())
    print("\n".join(report(kernels)))
    print(f"{len(kernels)} kernels, {sum(kernel.spilled > 0 for kernel in kernels)} of them spill registers")
