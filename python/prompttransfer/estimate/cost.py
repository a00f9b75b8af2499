"""Estimates of memory, time and disk, and the formulas they come from.

Memory, in values: weights, of which the products have 2 bytes under bfloat16, 1 or 0.5 when quantized; activations that
an update keeps, (16 H + 4 F) for each of its tokens and layers and 2 N for each head, token and layer, N the tokens of
a row; with checkpointing H for each token and layer and all of one layer; 16 bytes for each trained parameter (value,
gradient, two moments). The factors 16, 4 and 2 fit a measurement of a Llama in float32.

Time: 2 operations for each parameter and token, once forward and once backward (a frozen weight has no gradient of its
own), over the rate at which this machine multiplies matrices, of which a model reaches about half.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from prompttransfer.estimate.model import ModelFacts
from prompttransfer.estimate.stages import SizedStage
from prompttransfer.methods import METHODS
from prompttransfer.settings.run import RunConfig

SHARE = 0.5  # of the rate of large products that training reaches, about


class Machine(NamedTuple):
    """device: name; gpu: whether it is one; memory: bytes that are free for a run; rate: operations a second of a
    product; short: whether that is bfloat16."""

    device: str
    gpu: bool
    memory: int
    rate: float
    short: bool


class Memory(NamedTuple):
    """Bytes."""

    weights: int
    activations: int
    prompts: int

    @property
    def total(self) -> int:
        return sum(self)


def probe(precision: str, seconds: float) -> Machine:
    """Multiply matrices for about that long, in the precision of the run."""
    import torch

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    kinds = {"float32": [torch.float32], "bfloat16": [torch.bfloat16]}.get(precision, [torch.float32, torch.bfloat16])
    size = 4096 if cuda else 768
    rates = {}
    for kind in kinds:
        a, b = (torch.ones(size, size, device=device, dtype=kind) for _ in range(2))
        count, start = 0, time.perf_counter()
        while count < 2 or time.perf_counter() - start < seconds / len(kinds):
            if count == 1:  # the first product sets the library up
                start = time.perf_counter()
            (a @ b)[0, 0].item()
            count += 1
        rates[kind] = (count - 1) * 2 * size**3 / (time.perf_counter() - start)
    best = max(rates, key=rates.__getitem__)
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, threads: {torch.get_num_threads()}"
    memory = torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available
    return Machine(name, cuda, memory, rates[best], best is torch.bfloat16)


def memory(config: RunConfig, model: ModelFacts, stages: Sequence[SizedStage], short: bool) -> Memory:
    """Of the stage that needs most; see the head of this file. short: bfloat16."""
    size = 2 if short else 4
    products = {"8bit": 1.0, "4bit": 0.5}.get(config.quantization, size)
    weights = 4 * model.embedding + products * (model.parameters - model.embedding)
    kept = 16 * model.hidden + 4 * model.inner

    def activations(stage: SizedStage) -> float:
        pairs = 2 * model.heads * stage.longest
        layer = stage.trained_on * (kept + pairs)
        per_layer = stage.trained_on * model.hidden if config.checkpointing else layer
        return size * (model.layers * per_layer + (layer if config.checkpointing else 0))

    trained = [stage for stage in stages if stage.trained]
    return Memory(
        int(weights),
        int(max(map(activations, trained), default=0)),
        max((16 * (stage.trained or 0) for stage in trained), default=0),
    )


def operations(stage: SizedStage, model: ModelFacts) -> float:
    """Of one update; of a scoring, which trains nothing, of all its rows."""
    both = 2 * 2 * (stage.trained_on * model.read + stage.written * model.written)
    once = 2 * stage.read_only * model.read
    return both + once if stage.trained else once


def seconds(stage: SizedStage, model: ModelFacts, machine: Machine) -> float | None:
    """One run of a stage; None where its updates are not known."""
    if stage.updates is None or stage.rows is None:
        return None
    return (stage.updates if stage.trained else 1) * operations(stage, model) / (SHARE * machine.rate)


def disk(config: RunConfig, model: ModelFacts, stages: Sequence[SizedStage], here: bool) -> int:
    """Bytes: the model when it is not here, finished stages and checkpoints, and what a method may keep."""
    weights = 0 if here else 4 * model.parameters
    prompts = sum(4 * 4 * (stage.trained or 0) * stage.times for stage in stages)
    return weights + prompts + max(METHODS[method].disk(config) for method in config.methods)
