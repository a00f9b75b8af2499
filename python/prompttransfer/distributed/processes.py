"""The processes that a launcher (torchrun, accelerate launch) started, working on one run together.

All of them do the same, each on its share of the rows; the main one, of rank 0, also decides what is done already,
writes it down and tells of it. The group is that of torch.distributed, which accelerate sets up: NCCL between GPUs,
gloo between CPUs. With one process nothing here does anything, and neither torch nor accelerate is imported.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

# A process waits for the main one while that waits for a stage which another run trains. A process that died is
# noticed by its launcher, at once.
_PATIENCE = timedelta(days=1)


def count() -> int:
    """How many processes work on this run."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Which of them this is: 0 .. count() - 1."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the one that decides, writes and tells."""
    return rank() == 0


def start() -> None:
    """Meet the others and take this process's GPU; done once, by whatever needs it first.

    Raises:
        ValueError: there are more processes on this machine than GPUs.
    """
    if count() == 1:
        return
    import torch
    from accelerate import PartialState

    if torch.distributed.is_initialized():
        return
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_RANK") or 0)
    if gpus and local >= gpus:
        raise ValueError(f"want a GPU for each process, got process {local + 1} of a machine with {gpus}")
    PartialState(cpu=not gpus, backend="cuda:nccl,cpu:gloo" if gpus else "gloo", timeout=_PATIENCE)


def finish() -> None:
    """Part from the others, when all have come so far."""
    import torch

    if count() > 1 and torch.distributed.is_initialized():
        wait()
        # A training that is done but not collected yet would keep the group, whose threads abort the process if they
        # let go of a tensor while Python ends.
        gc.collect()
        torch.distributed.destroy_process_group()


@contextmanager
def in_turn() -> Iterator[None]:
    """Inside is one process of every machine at a time."""
    turns = max(gather(int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))
    turn = int(os.environ.get("LOCAL_RANK") or 0)
    for _ in range(turn):
        wait()
    yield
    for _ in range(turns - turn):
        wait()


def wait() -> None:
    """Until all have come so far."""
    gather(None)


def mine(items: Sequence[T]) -> Sequence[T]:
    """This process's share: every count()-th one."""
    return items[rank() :: count()]


def broadcast(value: T) -> T:
    """What the main process has here."""
    if count() == 1:
        return value
    start()
    import torch.distributed as dist

    held: list[Any] = [value if is_main() else None]
    dist.broadcast_object_list(held, src=0)
    return held[0]  # type: ignore[no-any-return]


def follow(items: Iterable[T]) -> Iterator[T]:
    """The main process's items, one after the other, in every process."""
    if count() == 1:
        yield from items
        return
    own = iter(items)
    while item := broadcast(list(islice(own, 1))):
        yield item[0]


def broadcast_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The main process's tensors, on the CPU, of any sizes and types."""
    if count() == 1:
        return tensors
    import torch
    import torch.distributed as dist

    kinds = broadcast([(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()])
    shared = {}
    for name, shape, dtype in kinds:
        tensor = tensors[name].detach().cpu().contiguous() if is_main() else torch.empty(shape, dtype=dtype)
        if tensor.numel():
            dist.broadcast(tensor.view(-1).view(torch.uint8), src=0)
        shared[name] = tensor
    return shared


def gather(value: T) -> list[T]:
    """What every process has here, in the order of their ranks."""
    if count() == 1:
        return [value]
    start()
    import torch.distributed as dist

    held: list[Any] = [None] * count()
    dist.all_gather_object(held, value)
    return held


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; no gradient flows through it."""
    if count() == 1:
        return tensor
    start()
    import torch.distributed as dist

    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def tells_of_an_error() -> bool:
    """Whether this process is the first that failed. Most errors happen in all of them; others follow from the first.

    They agree through the launcher's own store; where that is gone, each tells.
    """
    if count() == 1:
        return True
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    environment = os.environ
    run = f"{environment.get('TORCHELASTIC_RUN_ID')}/{environment.get('TORCHELASTIC_RESTART_COUNT')}"
    try:
        store = TCPStore(
            environment["MASTER_ADDR"],
            int(environment["MASTER_PORT"]),
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=5),
        )
        return bool(store.add(f"prompttransfer/{run}/errors", 1) == 1)
    except (KeyError, RuntimeError):
        return True
