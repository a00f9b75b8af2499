"""Code for tests with several processes: what each process runs, and how to start them. They are forked from a process
that has loaded torch, with torchrun's environment."""

from __future__ import annotations

import gc
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

from prompttransfer import RunConfig
from prompttransfer.distributed import processes
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.loading import load_model
from prompttransfer.models.rows import EncodedRow
from prompttransfer.models.scoring import predict
from prompttransfer.prompts import ParticlePrompts, PromptModule, SoftPrompt
from prompttransfer.runs.compare import compare
from prompttransfer.tasks import load_task
from prompttransfer.training.divergence import Diverged
from prompttransfer.training.plan import Plan
from prompttransfer.training.trainer import train

# Texts and answers of several lengths: means over tokens are not means of means.
ROWS = [EncodedRow(tuple(range(3 + n, 7 + 2 * n)), (40 + n, 41, 2)[: 1 + n % 3], n % 2) for n in range(9)]
BATCHES = [[0, 1, 2, 3, 4], [5, 6], [7, 8, 0], [1, 2, 3, 4, 5, 6, 7], [8]]
WEIGHTS = [0.3, 0.7]


def start_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run work(*arguments) in this many processes of one group. An error in one of them is raised here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_process, (count, port, work, arguments), nprocs=count, start_method="forkserver")


def _process(rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    here = {"RANK": rank, "WORLD_SIZE": count, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in here.items()} | {"MASTER_ADDR": "127.0.0.1"}
    gc.freeze()  # every training collects garbage, of all that was imported as well
    work(*arguments)
    processes.finish()


def compared(config: RunConfig, folder: Path) -> None:
    """A comparison; no process sees the folders of another."""
    own = folder / f"rank{processes.rank()}"
    compare(config.model_copy(update={"output": own / "run", "cache": own / "cache"}))


def soft(backbone: Backbone) -> SoftPrompt:
    return SoftPrompt(torch.randn(4, backbone.hidden_size, generator=torch.Generator().manual_seed(0)))


def particles_of(backbone: Backbone, count: int) -> ParticlePrompts:
    start = soft(backbone).prompt.detach()
    noise = torch.randn(count, *start.shape, generator=torch.Generator().manual_seed(1))
    return ParticlePrompts(start + 0.3 * noise, start)


def svgd(backbone: Backbone, folder: Path, parallel: str) -> tuple[list[list[float]], torch.Tensor, torch.Tensor]:
    """Loss curve, the direction of every update, and the particles in the end."""
    prompt, directions = particles_of(backbone, 3), []

    def follow() -> None:
        prompt.particles.grad.mul_(prompt.count)
        prompt.turn_gradient(10.0)
        directions.append(prompt.particles.grad.clone())

    loss = ParticleLoss(WEIGHTS, 10.0, prior_std=2.0, parallel=parallel)
    whole = parallel == "particles"
    plan = Plan(prompt, loss, ROWS, BATCHES, 0.05, max_grad_norm=0.0, before_step=follow, whole_batches=whole)
    return train(backbone, plan, folder).loss, torch.stack(directions), prompt.particles.detach()


class Stop(Exception):
    pass


def interrupted(backbone: Backbone, folder: Path) -> tuple[list[list[float]], torch.Tensor]:
    """Loss curve and prompt of a training that was stopped after its third update and went on."""

    def stop(seen: list[int]) -> Callable[..., None]:
        def advance(n: int, **_: float) -> None:
            seen.append(n)
            if len(seen) == 4:
                raise Stop

        return advance

    try:
        train(backbone, plan_of(soft(backbone)), folder, checkpoint_updates=2, advance=stop([]))
    except Stop:
        prompt = soft(backbone)
        again: list[int] = []
        log = train(backbone, plan_of(prompt), folder, checkpoint_updates=2, advance=lambda n, **_: again.append(n))
        assert again == [2, 1, 1, 1]
        return log.loss, prompt.prompt.detach()
    raise AssertionError("the training was not stopped")


def plan_of(prompt: PromptModule) -> Plan:
    return Plan(prompt, task_loss, ROWS, BATCHES, 0.05)


def diverges(backbone: Backbone, folder: Path) -> bool:
    prompt = soft(backbone)
    with torch.no_grad():
        prompt.prompt.fill_(math.nan)
    try:
        train(backbone, plan_of(prompt), folder)
    except Diverged as error:
        return str(error).endswith("last-good.safetensors")
    return False


def trainings(model: Path, folder: Path) -> None:
    """Into a file of every process: SVGD in both ways, an interrupted training, one that diverges."""
    backbone = load_model(model, precision="float32", max_length=16)
    own = folder / f"rank{processes.rank()}"
    results = {
        "rows": svgd(backbone, own / "rows", "rows"),
        "particles": svgd(backbone, own / "particles", "particles"),
        "interrupted": interrupted(backbone, own / "cut"),
        "diverged": diverges(backbone, own / "nan"),
        "checkpoints": [path.name for path in own.rglob("checkpoint-*")],
    }
    own.mkdir(exist_ok=True)
    torch.save(results, own / "results.pt")


def everything(configs: dict[str, RunConfig], model: Path, folder: Path) -> None:
    """All that is compared with one process, in one start of the processes."""
    for name, config in configs.items():
        compared(config, folder / name)
    trainings(model, folder / "trainings")
    processes.finish()
    torch.save(threads(), folder / "trainings" / f"rank{processes.rank()}" / "threads.pt")


def threads() -> list[str]:
    """The names of this process's threads, of every library's; on Linux."""
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def trained_and_asked(backbone: Backbone, table: Path, folder: Path) -> dict[str, Any]:
    """Results of a model that may be sharded: a loss curve, the prompt, and answers by three kinds of scoring."""
    prompt = soft(backbone)
    results: dict[str, Any] = {"loss": train(backbone, plan_of(prompt), folder).loss, "prompt": prompt.composed()}
    for scoring in ("first-token", "full", "generate"):
        task = EncodedTask.of(load_task(str(table)).limit(test_rows=10), backbone, scoring)
        results[scoring] = predict(backbone, prompt.composed(), task, batch_size=4)
    return results


def sharded(models: dict[Path, bool], table: Path, folder: Path) -> None:
    """Into a file of every process and model: what it learned and answered, and how many weights it kept.

    models: folders, each with whether activations are computed again.
    """
    own = folder / f"rank{processes.rank()}"
    for model, checkpointing in models.items():
        backbone = load_model(model, precision="float32", checkpointing=checkpointing, sharded=True)
        results = trained_and_asked(backbone, table, own / model.name)
        weights = backbone.model.parameters()
        results["kept"] = sum((w.to_local() if isinstance(w, DTensor) else w).numel() for w in weights)
        own.mkdir(exist_ok=True)
        torch.save(results, own / f"{model.name}.pt")
