"""Estimates of memory, time and disk, and their formulas.

Memory: weights, where those of matrix products take 2 bytes with bfloat16 and 1 or 0.5 when quantized; activations that
an update keeps, (16 H + 4 F) values per token and layer and 2 N per head, token and layer, where N is the tokens of a
row; with checkpointing, H per token and layer plus everything of one layer; 16 bytes per trained parameter (value,
gradient, two moments). The factors 16, 4 and 2 are fitted to a Llama in float32.

Time: 2 operations per parameter and token, once forward and once backward (a frozen weight has no gradient), divided by
this machine's rate of matrix multiplication, of which a model reaches about half.
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

SHARE = 0.5  # fraction of the rate of large products that training reaches, roughly


class Machine(NamedTuple):
    """device: name; gpu: whether it is a GPU; memory: free bytes; rate: operations per second of a matrix product;
    short: whether that is in bfloat16."""

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
    """Measure this machine by multiplying matrices for about `seconds`, in the precision of the run."""
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
            if count == 1:  # the first product initializes the library
                start = time.perf_counter()
            (a @ b)[0, 0].item()
            count += 1
        rates[kind] = (count - 1) * 2 * size**3 / (time.perf_counter() - start)
    best = max(rates, key=rates.__getitem__)
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, threads: {torch.get_num_threads()}"
    memory = torch.cuda.mem_get_info(device)[0] if cuda else psutil.virtual_memory().available
    return Machine(name, cuda, memory, rates[best], best is torch.bfloat16)


def memory(config: RunConfig, model: ModelFacts, stages: Sequence[SizedStage], short: bool) -> Memory:
    """Memory of the stage that needs most, by the formulas above. short: whether products are in bfloat16."""
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
    """Operations of one update, or of all rows of a scoring, which trains nothing."""
    both = 2 * 2 * (stage.trained_on * model.read + stage.written * model.written)
    once = 2 * stage.read_only * model.read
    return both + once if stage.trained else once


def seconds(stage: SizedStage, model: ModelFacts, machine: Machine) -> float | None:
    """Seconds of one run of a stage; None if its updates are unknown."""
    if stage.updates is None or stage.rows is None:
        return None
    return (stage.updates if stage.trained else 1) * operations(stage, model) / (SHARE * machine.rate)


def disk(config: RunConfig, model: ModelFacts, stages: Sequence[SizedStage], here: bool) -> int:
    """Bytes of disk: the model if it is not on this machine, finished stages, checkpoints, and files of methods."""
    weights = 0 if here else 4 * model.parameters
    prompts = sum(4 * 4 * (stage.trained or 0) * stage.times for stage in stages)
    return weights + prompts + max(METHODS[method].disk(config) for method in config.methods)
