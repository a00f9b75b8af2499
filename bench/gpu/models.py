"""Check that every layout of prompts and rows has the loss and the gradients of the plain one in float32.

python -m bench.gpu.models [--device cuda]

The model is a small Llama with random weights. Batches have lengths of several remainders modulo 128, and padding.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from torch import Tensor
from training_setup import (
    ONCE,
    PACKED,
    PLAIN,
    REPLAYED,
    SMALL,
    configured,
    make_backbone,
    make_batch,
    make_model,
    make_rows,
    start_prompt,
)

from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone, native_bfloat16
from prompttransfer.prompts import SoftPrompt

SIZES = replace(SMALL["llama"], hidden=256, length=100)  # heads of 64, as in the models that people use
TEXTS = (20, 28, 50, 92)  # longest text of a batch; with the prompt: 120, 128, 150, 192 tokens
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}


def step(backbone: Backbone, longest: int) -> tuple[Tensor, Tensor]:
    """Loss and gradient of a prompt before eight rows, about half of which have the longest text."""
    prompt = SoftPrompt(start_prompt(backbone, SIZES)).to(backbone.device)
    rows = make_rows(replace(SIZES, text=longest, longest=longest), 8)
    loss = task_loss(backbone, prompt, make_batch(backbone, rows))
    loss.backward()
    (gradient,) = (parameter.grad for parameter in prompt.parameters())
    return loss.detach().double(), gradient.double()


def error(got: Tensor, want: Tensor) -> float:
    return float((got - want).norm() / want.norm())  # NaN if there is one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args()
    model = make_model("llama", SIZES, options.device)
    exact = make_backbone(model, "float32")
    wanted = {longest: configured("eager", exact, PLAIN, lambda n=longest: step(exact, n)) for longest in TEXTS}
    backbones = {"float32": exact}
    if native_bfloat16(exact.device):
        backbones["bfloat16"] = make_backbone(model, "bfloat16")
    cases = [
        (precision, attention, layout, longest)
        for precision in backbones
        for attention in ("eager", "sdpa")
        for layout in (PLAIN, ONCE, PACKED)
        for longest in TEXTS
    ]
    if options.device == "cuda":  # one of each precision: it compiles for every length
        cases += [(precision, "flex_attention", PACKED, TEXTS[-1]) for precision in backbones]
        # The first step of a shape is not replayed, the second one is recorded.
        cases += [(precision, "sdpa", REPLAYED, longest) for precision in backbones for longest in TEXTS * 3]
    wrong = 0
    for precision, attention, layout, longest in cases:
        backbone = backbones[precision]
        got = configured(attention, backbone, layout, lambda b=backbone, n=longest: step(b, n))
        errors = [error(*pair) for pair in zip(got, wanted[longest], strict=True)]
        if not all(each <= TOLERANCE[precision] for each in errors):  # NaN is not
            wrong += 1
            print(f"WRONG {precision}, {attention}, {layout}, {longest} tokens: loss and gradient off by {errors}")
    print(f"{len(cases)} steps of a model, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
