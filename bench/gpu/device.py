"""Report the device and its ceilings, and check that the backend under test is the one built for it.

python -m bench.gpu.device --site FOLDER [--device cuda]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import promptkernels as pk
from promptkernels.bench.machine import facts
from promptkernels.bench.timing import copy_bandwidth, sampler


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """Operations per second of a product of random square matrices; the best of five."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    timed = sampler(lambda: left @ right, device)
    return 2 * size**3 / min(timed.take() for _ in range(5))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--site", type=Path, required=True, help="folder from which the package must be imported")
    options = parser.parse_args()
    device = torch.device(options.device)
    for name, value in facts(device).items():
        print(f"{name}: {value}")
    package = Path(pk.__file__).resolve()
    if not package.is_relative_to(options.site.resolve()):
        print(f"promptkernels is imported from {package.parent}, not from {options.site}")
        return 1
    real = device.type == "cuda"
    size = 8192 if real else 256
    rates = {str(dtype)[6:]: matrix_rate(device, dtype, size) / 1e12 for dtype in (torch.float32, torch.bfloat16)}
    copy = copy_bandwidth(device) / 1e9
    for name, status in pk.backends().items():
        print(f"backend {name}: {'available' if status.available else status.reason}")
    if real and not pk.backends()["cuda"].available:
        print(f"the backend cuda cannot run: {pk.backends()['cuda'].reason}")
        return 1
    print(f"copy {copy:.0f} GB/s, " + ", ".join(f"{name} product {rate:.1f} TFLOP/s" for name, rate in rates.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
