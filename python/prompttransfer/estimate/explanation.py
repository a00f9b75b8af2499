"""Explanation of a run: its model, tasks, stages, costs, and what is missing on this machine."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from prompttransfer.estimate import cost
from prompttransfer.estimate.model import ModelFacts, model_facts
from prompttransfer.estimate.stages import SizedStage, stages
from prompttransfer.estimate.tasks import TaskFacts, task_facts
from prompttransfer.files.cache_parts import size
from prompttransfer.files.model_names import hub_fault
from prompttransfer.settings.recipes import Recipe
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks.text_metrics.scoring import Lack


@dataclass(frozen=True)
class Explanation:
    """Everything that is known before a run.

    Attributes:
        disk, free_disk: bytes needed and free on the disk of the finished stages.
        missing: what the run lacks; if empty, the run can start.
    """

    recipe: Recipe
    config: RunConfig
    model: ModelFacts | None
    tasks: list[TaskFacts]
    stages: list[SizedStage]
    machine: cost.Machine
    memory: cost.Memory | None
    disk: int | None
    free_disk: int
    missing: list[Lack]

    @property
    def ready(self) -> bool:
        return not self.missing

    @property
    def seconds(self) -> list[float | None]:
        """Seconds of every stage, run once; None: unknown."""
        model = self.model
        return [cost.seconds(stage, model, self.machine) if model else None for stage in self.stages]

    @property
    def total_seconds(self) -> float:
        """Seconds of all stages with their repetitions, as far as their rows are known."""
        return sum((each or 0.0) * stage.times for each, stage in zip(self.seconds, self.stages, strict=True))

    @property
    def complete(self) -> bool:
        """Whether the time of every stage is known."""
        return None not in self.seconds

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        timed = zip(self.stages, self.seconds, strict=True)
        return {
            "recipe": self.recipe.name,
            **self.recipe.about.model_dump(mode="json"),
            "ready": self.ready,
            "missing": [lack._asdict() for lack in self.missing],
            "settings": self.config.model_dump(mode="json"),
            "model": None if self.model is None else asdict(self.model),
            "tasks": [asdict(task) for task in self.tasks],
            "stages": [asdict(stage) | {"seconds": seconds} for stage, seconds in timed],
            "machine": self.machine._asdict(),
            "memory": None if self.memory is None else self.memory._asdict() | {"total": self.memory.total},
            "disk": {"needed": self.disk, "free": self.free_disk},
            "seconds": self.total_seconds if self.model else None,
            "seconds_complete": self.complete,
        }


def explain(config: RunConfig, recipe: Recipe, *, probe_seconds: float = 1.0) -> Explanation:
    """Check everything that a run with these settings needs, without training, writing files or loading weights.

    Data on this machine is read as in the run.

    Args:
        probe_seconds: how long to multiply matrices to measure this machine.
    """
    model, lack = model_facts(config.model)
    missing = [lack] if lack else []
    named = [(name, "source") for name in (config.sources if config.transfers else ())]
    tasks = []
    for name, role in (*named, *((name, "target") for name in config.targets)):
        facts, lacks = task_facts(config, name, role)
        tasks.append(facts)
        missing += [lack for lack in lacks if lack not in missing]
    sources = [task for task in tasks if task.role == "source"]
    plan = stages(config, model, sources, [task for task in tasks if task.role == "target"])
    missing += _quantization_lacks(config)
    if config.report_to != "none":
        from prompttransfer.training.loggers import missing_logger  # imports transformers' Trainer, which takes seconds

        missing += filter(None, [missing_logger(config.report_to)])
    if any("hf download" in lack.command for lack in missing) and not _hub_in_reach():
        missing.append(
            Lack("network: the hub cannot be reached", "download the files on another machine and copy them")
        )
    machine = cost.probe(config.precision, probe_seconds)
    memory = disk = None
    place = _store(config)
    free = shutil.disk_usage(place).free
    if model is not None:
        memory = cost.memory(config, model, plan, machine.short)
        disk = cost.disk(config, model, plan, here=lack is None)
        if memory.total > machine.memory:
            kind = "GPU memory" if machine.gpu else "memory"
            what = f"{kind}: needs about {size(memory.total)}, {size(machine.memory)} free"
            missing.append(Lack(what, "reduce batch_size and source_batch_size, or set checkpointing: true"))
        if disk > free:
            what = f"disk: needs about {size(disk)} in {place}, {size(free)} free"
            missing.append(Lack(what, "set PROMPTTRANSFER_CACHE to a larger disk"))
    return Explanation(recipe, config, model, tasks, plan, machine, memory, disk, free, missing)


def _quantization_lacks(config: RunConfig) -> list[Lack]:
    if config.quantization == "none":
        return []
    import torch

    lacks = []
    if not torch.cuda.is_available():
        lacks.append(Lack(f"quantization {config.quantization}: no CUDA GPU", "set quantization: none"))
    if find_spec("bitsandbytes") is None:
        lacks.append(Lack(f"quantization {config.quantization}: bitsandbytes", "pip install bitsandbytes"))
    return lacks


def _store(config: RunConfig) -> Path:
    """The folder of finished stages, or its nearest existing parent."""
    from prompttransfer.files.store import default_folder

    place = (config.cache or default_folder()).resolve()
    return next(folder for folder in (place, *place.parents) if folder.is_dir())


def _hub_in_reach() -> bool:
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and not hub_fault(constants.ENDPOINT)
