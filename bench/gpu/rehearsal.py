"""Stands in for a machine with a GPU, so that everything but the GPU itself is tried without one."""

from __future__ import annotations

from pathlib import Path

from bench.gpu.parts import Target

TARGET = Target(device="cpu", cuda="cuda-emulated", cuda_runner="cuda-emulated", triton_runner="cuda-emulated")

# Runs the Python program that it would watch, and writes a line where it would write its report.
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
