"""The measured points: a method on a random Llama, and its terms in the cost model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from bench.training_setup import ANSWERS, Sizes, make_backbone, make_model, start_prompt, update
from prompttransfer import RunConfig
from prompttransfer.estimate.cost import memory, operations
from prompttransfer.estimate.model import ModelFacts
from prompttransfer.estimate.stages import SizedStage
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss, PriorLoss, gaussian_penalty
from prompttransfer.models import Backbone
from prompttransfer.models.answering import Reader
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import GroupedPrompt, MultitaskPrompt, ParticlePrompts, SoftPrompt

TEXT, VOCABULARY = 24, 4096
# Meaning of `count`: sources for MPT and DTVG, particles for BMTPT.
COUNTS = {"MPT, sources": (2, 8, 16), "BMTPT, particles": (2, 8), "DTVG": (8, 24, 64)}
METHODS = ("PT", "MPT, sources", "MPT, target", "BMTPT, particles", "BMTPT, target", "DTVG", "scoring")
AXES = {"hidden": (128, 384, 512), "layers": (3, 10), "length": (10, 25, 100), "rows": (2, 4, 16)}


@dataclass(frozen=True)
class Point:
    """One point. count: see `COUNTS`; use: fitted, held out within the ranges, or beyond them."""

    method: str
    hidden: int = 256
    layers: int = 6
    length: int = 50
    rows: int = 8
    count: int = 4
    use: str = "fitted"


def points() -> Iterator[Point]:
    """Points along one axis at a time from a common centre, then held-out points: random ones, and one per method
    beyond all ranges."""
    drawn = random.Random(0)
    for method in METHODS:
        centre = Point(method)
        yield centre
        for axis, values in (*AXES.items(), ("count", COUNTS.get(method, ()))):
            yield from (replace(centre, **{axis: value}) for value in values)
        for _ in range(2):
            chosen = {axis: drawn.choice(values) for axis, values in AXES.items()}
            yield replace(centre, **chosen, count=drawn.choice(COUNTS.get(method, (4,))), use="held out")
        yield replace(centre, hidden=640, layers=11, length=120, rows=20, count=3, use="beyond")


@lru_cache(maxsize=2)
def backbone(hidden: int, layers: int) -> Backbone:
    heads = hidden // 64
    model = make_model("llama", Sizes(hidden, layers, heads, heads, 3 * hidden, VOCABULARY), "cpu")
    model.set_attn_implementation("eager")  # as on any CPU
    return make_backbone(model, "float32")


def facts(hidden: int, layers: int) -> ModelFacts:
    """Facts about that model. A layer has 4 H^2 parameters in its attention and 3 H F, with F = 3 H, after it."""
    read = layers * (4 + 9) * hidden**2
    embedding = VOCABULARY * hidden
    return ModelFacts(
        "random", "llama", False, hidden, layers, hidden // 64, 3 * hidden, read + embedding, embedding, read, 0
    )


def make(point: Point) -> Callable[[], object]:
    """A function that runs the update, or the scoring of `rows` rows."""
    model = backbone(point.hidden, point.layers)
    sizes = Sizes(point.hidden, point.layers, 1, 1, 1, VOCABULARY, length=point.length)
    start = start_prompt(model, sizes)
    generator = torch.Generator().manual_seed(1)
    rows = _rows(point, generator)
    if point.method == "scoring":
        ids = [row.ids for row in rows]
        return lambda: Reader(model, start, point.rows).first_token_scores(ids, ANSWERS)
    noise = torch.randn(point.count, *start.shape, generator=generator) * start.std()

    def others() -> Tensor:
        return start + 0.2 * noise

    if point.method == "PT":
        return update(model, SoftPrompt(start), task_loss, rows)
    if point.method == "MPT, sources":
        return update(model, MultitaskPrompt(start, point.count), task_loss, rows)
    if point.method == "MPT, target":
        return update(model, MultitaskPrompt(start), task_loss, rows)
    if point.method == "BMTPT, target":
        prior = PriorLoss(gaussian_penalty(others(), 1e-3), 0.01)
        return update(model, SoftPrompt(start), prior, rows)
    if point.method == "DTVG":
        return update(model, GroupedPrompt(start, others(), start), task_loss, rows)
    cloud = ParticlePrompts(others(), start)
    return update(model, cloud, ParticleLoss([0.5, 0.5], 100.0), rows, lambda: cloud.turn_gradient(100.0))


def _rows(point: Point, generator: torch.Generator) -> list[EncodedRow]:
    tasks = {"MPT, sources": point.count, "BMTPT, particles": 2}.get(point.method, 1)
    ids = torch.randint(8, VOCABULARY, (point.rows, TEXT), generator=generator).tolist()
    return [EncodedRow(tuple(row), (ANSWERS[place % 2],), place % tasks) for place, row in enumerate(ids)]


def stage(point: Point) -> SizedStage:
    """The stage, as described by `prompttransfer validate`."""
    length, hidden = point.length, point.hidden
    full, ends = length * hidden, length + hidden
    prompts = min(point.count, point.rows) if point.method == "MPT, sources" else 1
    tokens = prompts * length + point.rows * TEXT
    if point.method == "scoring":
        return SizedStage("scoring", point.rows, 0, point.rows, 0, read_only=tokens, longest=length + TEXT)
    times = point.count if point.method == "BMTPT, particles" else 1
    trained = {
        "MPT, sources": full + point.count * ends,
        "MPT, target": full + ends,
        "BMTPT, particles": point.count * full,
        "DTVG": full + (point.count + 1) * length,
    }.get(point.method, full)
    return SizedStage(
        point.method, point.rows, 1, point.rows, trained,
        trained_on=times * (tokens + point.rows), longest=length + TEXT,
    )  # fmt: skip


def own_bytes(point: Point) -> float:
    """Least memory traffic of a method outside the model: its operations, and AdamW (seven numbers per parameter)."""
    full = point.length * point.hidden
    operation = {
        "MPT, sources": 3 * point.rows * full,
        "MPT, target": 3 * full,
        "BMTPT, particles": 4 * point.count * full,
        "BMTPT, target": 3 * full,
        "DTVG": (3 * (point.count + 1) + 5) * full,
    }.get(point.method, 0)
    return 4.0 * (operation + 7 * (stage(point).trained or 0))


def time_terms(point: Point) -> dict[str, float]:
    """Terms of the time of a call, each to be multiplied by a constant of the machine."""
    model, described = facts(point.hidden, point.layers), stage(point)
    passes = point.count if point.method == "BMTPT, particles" else 1  # a CPU reads particles one after the other
    tokens = described.trained_on or described.read_only
    ways = 3 if described.trained else 1
    return {
        "operations": operations(described, model),
        "activation bytes": 4.0 * ways * tokens * model.layers * (16 * model.hidden + 4 * model.inner),
        "attention bytes": 4.0 * ways * tokens * model.layers * model.heads * described.longest,
        "weight bytes": 4.0 * (2 if described.trained else 1) * passes * model.read,
        "own bytes": own_bytes(point),
        "layers": float(ways * passes * model.layers),
        "calls": 1.0,
    }


def memory_terms(point: Point) -> dict[str, float]:
    """Terms of the peak memory of a call, in addition to the weights, as estimated by `prompttransfer validate`."""
    described = stage(point)
    model = facts(point.hidden, point.layers)
    one_pass = described
    if point.method == "BMTPT, particles":
        one_pass = replace(described, trained_on=described.trained_on / point.count)
    kept = memory(RunConfig(), model, [one_pass], short=False)
    tokens = described.read_only if not described.trained else 0.0
    return {
        "activations": float(kept.activations),
        "one layer": 4.0 * tokens * (16 * model.hidden + 4 * model.inner + 2 * model.heads * described.longest),
        "prompts": float(kept.prompts),
        "own bytes": own_bytes(point),
    }
