"""Processes of a launcher (torchrun, accelerate launch) that work on one run together.

All processes do the same work, each on its share of the rows. The main one, with rank 0, also decides what is already
done, writes results and reports them. The process group is that of torch.distributed, set up by accelerate: NCCL
between GPUs, gloo between CPUs. With one process, these functions do nothing and import neither torch nor accelerate.
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

# Long, because the main process may wait for a stage that another run trains, and the others wait for it. The launcher
# notices at once if a process dies.
_PATIENCE = timedelta(days=1)


def count() -> int:
    """Number of processes that work on this run."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Rank of this process, 0 .. count() - 1."""
    return int(os.environ["RANK"]) if count() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that decides, writes and reports."""
    return rank() == 0


def start() -> None:
    """Join the process group and select this process's GPU. Has no effect after the first call.

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
    """Wait for all processes, then leave the group."""
    import torch

    if count() > 1 and torch.distributed.is_initialized():
        wait()
        # A finished training that is not garbage collected yet would keep the group alive, and its threads abort the
        # process if they free a tensor while Python exits.
        gc.collect()
        torch.distributed.destroy_process_group()


@contextmanager
def in_turn() -> Iterator[None]:
    """Let only one process per machine at a time into the block."""
    turns = max(gather(int(os.environ.get("LOCAL_WORLD_SIZE") or 1)))
    turn = int(os.environ.get("LOCAL_RANK") or 0)
    for _ in range(turn):
        wait()
    yield
    for _ in range(turns - turn):
        wait()


def wait() -> None:
    """Wait until all processes have called this."""
    gather(None)


def mine(items: Sequence[T]) -> Sequence[T]:
    """This process's share of the items: every count()-th one."""
    return items[rank() :: count()]


def broadcast(value: T) -> T:
    """The main process's value, in every process."""
    if count() == 1:
        return value
    start()
    import torch.distributed as dist

    held: list[Any] = [value if is_main() else None]
    dist.broadcast_object_list(held, src=0)
    return held[0]  # type: ignore[no-any-return]


def follow(items: Iterable[T]) -> Iterator[T]:
    """The main process's items, one by one, in every process."""
    if count() == 1:
        yield from items
        return
    own = iter(items)
    while item := broadcast(list(islice(own, 1))):
        yield item[0]


def gather(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks."""
    if count() == 1:
        return [value]
    start()
    import torch.distributed as dist

    held: list[Any] = [None] * count()
    dist.all_gather_object(held, value)
    return held


def total(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes, without gradient."""
    if count() == 1:
        return tensor
    start()
    import torch.distributed as dist

    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def reports_error() -> bool:
    """Whether this process is the first to fail. Most errors occur in all processes, or follow from the first.

    The processes agree through the launcher's store. If that is gone, each reports its error.
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
