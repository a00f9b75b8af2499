"""`python -m promptkernels`: which backends there are, why one is not, and how they were built."""

from __future__ import annotations

import torch

import promptkernels
from promptkernels.backends.registry import PREFERENCE, choose


def main() -> None:
    print(f"promptkernels {promptkernels.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for status in promptkernels.backends().values():
        devices = "any device" if status.devices == ("*",) else ", ".join(status.devices)
        print(f"{status.name:<10} {'available' if status.available else 'unavailable: ' + status.reason} ({devices})")
        for key, value in status.facts.items():
            print(f"{'':<10} {key}: {value}")
    print()
    for device in PREFERENCE:
        print(f"{device} tensors are served by: {choose(device, torch.float32).NAME}")


if __name__ == "__main__":
    main()
