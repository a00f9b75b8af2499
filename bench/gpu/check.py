"""Check every operation against float64, and the features specific to GPUs: graphs, streams, compiled code.

python -m bench.gpu.check [--short] [--device cuda] [--backend cuda]

--short calls each operation a few times and compares nothing, for tools that instrument kernels. On a CPU, captured and
parallel calls run one after the other, to test this file itself.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from bench.gpu.calls import Call, Inputs, calls, use

ROWS = (1, 8, 16, 32, 64, 70)  # 70: more than the kernels support
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
FEW_DTYPES = (torch.bfloat16,)  # on a CPU
# Allowed relative root-mean-square error by result type: from a sum in this type, or from one rounding to it.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 5e-6, torch.bfloat16: 4e-3, torch.float16: 6e-4}


def allowed(exact: Tensor, dtype: torch.dtype) -> float:
    """Largest allowed norm of the error of a result of this type."""
    # Subnormal numbers are equally spaced, so rounding to one is off by up to half the spacing, however small it is.
    spacing = torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    return TOLERANCE[dtype] * float(exact.norm()) + spacing / 2 * exact.numel() ** 0.5


class Checks:
    """Counts comparisons and collects errors."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.compared, self.wrong, self.worst = device, 0, [], 0.0
        self.real = device.type == "cuda"

    def that(self, right: bool, what: str) -> None:
        self.compared += 1
        if not right:
            self.wrong.append(what)
            print(f"WRONG {what}", flush=True)

    def same(self, got: list[Tensor], want: list[Tensor], what: str) -> None:
        pairs = zip(got, want, strict=True)
        bits = all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
        self.that(bits, f"{what}: other bits, or NaN")

    def close(self, got: list[Tensor], want: list[Tensor], what: str) -> None:
        for place, (one, exact) in enumerate(zip(got, want, strict=True)):
            error, limit = float((one.double() - exact).norm()), allowed(exact, one.dtype)
            if limit > 0:  # it is 0 for zeros in float64
                self.worst = max(self.worst, error / limit)
            name, relative = f"gradient {place}" if place else "result", error / max(float(exact.norm()), 1e-300)
            self.that(error <= limit, f"{what}: {name} is off by {relative:.2g} in {one.dtype}")


def sized(checks: Checks, rows: int, dtype: torch.dtype, aligned: bool = True) -> list[Call]:
    length, hidden = (40, 768) if checks.real else (2, 16)
    return calls(rows, length, hidden if aligned else hidden - 3, dtype, checks.device, aligned)


def operations(checks: Checks) -> None:
    """Compare with float64, and check that two calls give the same bits."""
    for rows in ROWS if checks.real else (8, 70):
        for dtype in DTYPES if checks.real else FEW_DTYPES:
            for aligned in (True, False):
                for call in sized(checks, rows, dtype, aligned):
                    what = f"{call.name}, {rows} rows, {dtype}, {'aligned' if aligned else 'unaligned'}"
                    got, exact = call.everything(), call.exact()
                    # The gradient of the cosine of one prompt with itself is 0 except for rounding.
                    with_itself = rows == 1 and "cosine" in call.name and "others" not in call.name
                    compared = 1 if with_itself else len(got)
                    checks.close(got[:compared], exact[:compared], what)
                    checks.same(call.everything(), got, what)


def captured(checks: Checks, run: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """The outputs of ``run``, and a function that recomputes them in place."""
    if not checks.real:
        outputs = run()
        return outputs, lambda: [out.copy_(new) for out, new in zip(outputs, run(), strict=True)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    return outputs, graph.replay


def graphs(checks: Checks) -> None:
    """Capture once, replay with new inputs three times: the same bits as an eager call."""
    for rows in (8, 64, 70) if checks.real else (8,):
        for call in sized(checks, rows, torch.float32):
            static = {name: tensor.clone() for name, tensor in call.inputs.items()}
            outputs, replay = captured(checks, lambda call=call, static=static: call.everything(static))
            for seed in range(3):
                new = call.new_inputs(seed)
                for name, tensor in static.items():
                    tensor.copy_(new[name])
                replay()
                checks.same(outputs, call.everything(new), f"{call.name}, {rows} rows, replay {seed}")


def streams(checks: Checks, times: int = 100) -> None:
    """Use two streams at once, a hundred times: the same bits as a single call."""
    pair = [torch.cuda.Stream() if checks.real else None for _ in range(2)]
    for rows in (16, 64) if checks.real else (8,):
        for call in sized(checks, rows, torch.float32)[:7]:  # similarity and SVGD: blocks that wait for each other
            inputs = [call.new_inputs(seed) for seed in range(2)]
            alone = [call.result(one) for one in inputs]
            settle(checks)
            outputs: list[list[Tensor]] = [[], []]
            for _ in range(times if checks.real else 2):
                for place, stream in enumerate(pair):
                    with torch.cuda.stream(stream) if stream is not None else nullcontext():
                        outputs[place].append(call.result(inputs[place]))
            settle(checks)
            for place in range(2):
                differ = sum(not torch.equal(out, alone[place]) for out in outputs[place])
                checks.that(differ == 0, f"{call.name}, {rows} rows: {differ} calls differ on stream {place}")


def compiled(checks: Checks) -> None:
    """One compiled function of all operations in CUDA graphs, with new inputs and other work between its calls."""
    for rows in (8, 70):
        chosen = sized(checks, rows, torch.float32)

        def every(inputs: list[Inputs], chosen: list[Call] = chosen) -> list[Tensor]:
            return [call.function(one) for call, one in zip(chosen, inputs, strict=True)]

        how = {"mode": "reduce-overhead"} if checks.real else {"backend": "aot_eager"}
        quick = torch.compile(every, fullgraph=True, **how)
        for seed in range(6):
            new = [call.new_inputs(seed) for call in chosen]
            torch.compiler.cudagraph_mark_step_begin()
            with torch.no_grad():
                got = [out.clone() for out in quick(new)]
                want = every(new)
            checks.same(got, want, f"compiled with reduce-overhead, {rows} rows, call {seed}")
            del new
            torch.full((1 << 20,), float("nan"), device=checks.device)  # reuses freed memory


def autocast(checks: Checks) -> None:
    """Results have the same type and bits as outside of autocast."""
    for rows in (8, 22, 70) if checks.real else (8,):
        for call in sized(checks, rows, torch.float32):
            want = call.everything()
            with torch.autocast(checks.device.type, torch.bfloat16):
                got = call.everything()
            checks.same(got, want, f"{call.name}, {rows} rows, under autocast")


def short(checks: Checks) -> None:
    """About thirty calls and their gradients."""
    for rows, dtype, aligned in ((8, torch.float32, True), (33, torch.bfloat16, False), (64, torch.float64, True)):
        for call in sized(checks, rows, dtype, aligned):
            call.everything()
            checks.compared += 1
    settle(checks)


def settle(checks: Checks) -> None:
    if checks.real:
        torch.cuda.synchronize()


def sections(checks: Checks, options: argparse.Namespace) -> Iterator[Callable[[Checks], None]]:
    yield from (short,) if options.short else (operations, graphs, streams, autocast, compiled)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="about thirty calls, without comparisons")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--backend", default="cuda")
    options = parser.parse_args()
    checks = Checks(torch.device(options.device))
    with use(options.backend):
        for section in sections(checks, options):
            begin, before = time.perf_counter(), len(checks.wrong)
            try:
                section(checks)
                settle(checks)
            except Exception as error:  # continue with the other sections
                checks.wrong.append(section.__name__)
                print(f"WRONG {section.__name__}: {type(error).__name__}: {str(error)[:300]}")
            wrong, seconds = len(checks.wrong) - before, time.perf_counter() - begin
            print(f"{section.__name__}: {wrong} wrong, {seconds:.1f} s", flush=True)
    print(f"{checks.compared} checks, {len(checks.wrong)} wrong, largest error {checks.worst:.2g} of what is allowed")
    return 1 if checks.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
