"""Run every operation once, at a size that fills the device, for a profiler.

python -m bench.gpu.profiled [--device cuda] [--backend cuda]
"""

from __future__ import annotations

import argparse

import torch

from bench.gpu.calls import use
from promptkernels.bench.cases import CASES, LARGE, incoming_gradient, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="cuda")
    options = parser.parse_args()
    device = torch.device(options.device)
    real = device.type == "cuda"
    with use(options.backend):
        for case in LARGE if real else [case for case in CASES if case.sizes.get("T") == 6][:1]:
            inputs = case.make(device)
            for name in case.leaves:
                inputs[name].requires_grad_()
            run(case.ours, inputs, case.leaves, incoming_gradient(case.ours, inputs) if case.leaves else None)
            print(case.name, flush=True)
        if real:
            torch.cuda.synchronize()


if __name__ == "__main__":
    main()
