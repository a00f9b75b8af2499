"""Check that every layout of prompts and rows has the loss and the gradients of the plain one in float32.

python -m bench.gpu.models [--device cuda]

The model is a small Llama with random weights. Batches have lengths of several remainders modulo 128, and padding.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

import torch
from torch import Tensor
from training_setup import ONCE, PACKED, PLAIN, SMALL, Sizes, configured, make_backbone, make_model, start_prompt

from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone, Batch, native_bfloat16
from prompttransfer.prompts import SoftPrompt

SIZES = replace(SMALL["llama"], hidden=256, length=100)  # heads of 64, as in the models that people use
TEXTS = (20, 28, 50, 92)  # longest text of a batch; with the prompt: 120, 128, 150, 192 tokens
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}


def batch_of(backbone: Backbone, longest: int) -> Batch:
    """Eight rows between four tokens and `longest`."""
    generator = torch.Generator().manual_seed(longest)
    lengths = [longest, *torch.randint(4, longest, (7,), generator=generator).tolist()]
    rows = [torch.randint(8, SIZES.vocabulary, (length,), generator=generator).tolist() for length in lengths]
    batch = backbone.collate(rows, [[5 + index % 2] for index in range(len(rows))])
    batch["task_ids"] = torch.zeros(len(rows), dtype=torch.int64)
    return {name: tensor.to(backbone.device) for name, tensor in batch.items()}


def step(backbone: Backbone, sizes: Sizes, longest: int) -> tuple[Tensor, Tensor]:
    """Loss and gradient of a prompt."""
    prompt = SoftPrompt(start_prompt(backbone, sizes)).to(backbone.device)
    loss = task_loss(backbone, prompt, batch_of(backbone, longest))
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
    wanted = {longest: configured("eager", exact, PLAIN, lambda n=longest: step(exact, SIZES, n)) for longest in TEXTS}
    precisions = [precision for precision in TOLERANCE if precision == "float32" or native_bfloat16(exact.device)]
    cases = [
        (precision, attention, layout, longest)
        for precision in precisions
        for attention in ("eager", "sdpa")
        for layout in (PLAIN, ONCE, PACKED)
        for longest in TEXTS
    ]
    if options.device == "cuda":  # one of each precision: it compiles for every length
        cases += [(precision, "flex_attention", PACKED, TEXTS[-1]) for precision in precisions]
    wrong = 0
    for precision, attention, layout, longest in cases:
        backbone = make_backbone(model, precision)
        got = configured(attention, backbone, layout, lambda b=backbone, n=longest: step(b, SIZES, n))
        errors = [error(*pair) for pair in zip(got, wanted[longest], strict=True)]
        if not all(each <= TOLERANCE[precision] for each in errors):  # NaN is not
            wrong += 1
            print(f"WRONG {precision}, {attention}, {layout}, {longest} tokens: loss and gradient off by {errors}")
    print(f"{len(cases)} steps of a model, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
