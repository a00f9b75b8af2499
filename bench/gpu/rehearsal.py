"""Simulate a machine with a GPU, to test everything except the GPU itself."""

from __future__ import annotations

from pathlib import Path

from bench.gpu.parts import Target

TARGET = Target(device="cpu", cuda="cuda-emulated", cuda_runner="cuda-emulated", triton_runner="cuda-emulated")

# Stand-in for a tool: runs the Python program, and writes a line in place of a report.
_TOOL = """#!/bin/sh
while [ $# -gt 0 ]; do
  case $1 in
    --log-file) echo "$0" > "$2"; shift 2 ;;
    *python*) exec "$@" ;;
    *) shift ;;
  esac
done
"""


def write_tools(folder: Path) -> None:
    folder.mkdir()
    for name in ("ncu", "compute-sanitizer"):
        tool = folder / name
        tool.write_text(_TOOL)
        tool.chmod(0o755)
