"""`python -m promptkernels` lists the backends and why one is unavailable; with `bench`, it runs the benchmark."""

from __future__ import annotations

import os
import sys

import torch

import promptkernels
from promptkernels.backends.registry import PREFERENCE, BackendUnavailable, choose


def main() -> None:
    print(f"promptkernels {promptkernels.__version__}, torch {torch.__version__}, threads: {torch.get_num_threads()}\n")
    for status in promptkernels.backends().values():
        devices = "any device" if status.devices == ("*",) else ", ".join(status.devices)
        print(f"{status.name:<10} {'available' if status.available else 'unavailable: ' + status.reason} ({devices})")
        for key, value in status.facts.items():
            print(f"{'':<10} {key}: {value}")
    print()
    for device in PREFERENCE:
        try:
            print(f"{device} tensors are served by: {choose(device, torch.float32).name}")
        except (BackendUnavailable, ValueError) as error:
            print(f"{device} tensors: {str(error).splitlines()[0]}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["bench"]:
        from promptkernels.bench.command import main as bench

        sys.exit(bench(sys.argv[2:]))
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader closed the pipe (head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
