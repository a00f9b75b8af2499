"""Read the matrices of many prompt files in blocks. Each byte is read once, and only a few blocks are in memory.

Every thread reads a block of files into its own buffer and processes it while it is still in that core's cache. Memory
mapping would cost page faults and an unmap for each file, which takes longer than copying a prompt of a few hundred
kilobytes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from promptkernels.backends import cpu
from prompttransfer.library.index import DTYPES, Stored

BLOCK_BYTES = 1 << 22  # bytes to read and process at once
BLOCKS = 8  # blocks per part, the unit of work of a thread
READERS = min(16, 2 * (os.cpu_count() or 1))  # more than cores, because a disk is faster with several requests at once

Work = Callable[[Tensor, bool], np.ndarray]


class Part(NamedTuple):
    """Prompts of one kind, and a value for each. shares: whether their start is the requested one."""

    ids: list[int]
    values: np.ndarray
    shares: bool


def parts(folder: Path, stored: Iterable[Stored], work: Work, but: os.stat_result | None = None) -> Iterator[Part]:
    """Apply `work` to the matrices of files; yields the results in order.

    Args:
        work: (prompts (B, L, H) float32 or float64, shares) -> values (B,). Called by several threads; the prompts are
            overwritten afterwards.
        but: file status of a file to skip.

    Raises:
        ValueError: a file changed since it was indexed.
    """
    waiting: deque[Future[Part]] = deque()
    own = local()

    def begin() -> None:
        own.buffer = np.empty(0, np.uint8)
        cpu.use_threads(1)  # this pool already has enough threads

    def run(rows: Sequence[Stored]) -> Part:
        ids, values = list[int](), []
        step = max(1, BLOCK_BYTES // _bytes(rows[0]))
        dtype, shares = DTYPES[rows[0].dtype], bool(rows[0].shares)
        if own.buffer.nbytes < (wanted := step * _bytes(rows[0])):
            own.buffer = np.empty(wanted, np.uint8)
        for first in range(0, len(rows), step):
            got = _fill(own.buffer, folder, rows[first : first + step], but)
            block = torch.from_numpy(own.buffer[: len(got) * _bytes(rows[0])])
            prompts = block.view(dtype).view(len(got), rows[0].length, rows[0].width)
            if dtype not in (torch.float32, torch.float64):
                prompts = prompts.float()
            ids += got
            values.append(work(prompts, shares) if got else np.empty(0))
        return Part(ids, np.concatenate(values), shares)

    with ThreadPoolExecutor(READERS, "prompt-reader", begin) as pool:
        try:
            for rows in _cut(stored):
                waiting.append(pool.submit(run, rows))
                if len(waiting) > 2 * READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _bytes(stored: Stored) -> int:
    return stored.length * stored.width * DTYPES[stored.dtype].itemsize


def _cut(stored: Iterable[Stored]) -> Iterator[list[Stored]]:
    """Group prompts of one kind into parts of at least one prompt."""
    rows: list[Stored] = []
    for row in stored:
        same = rows and (row.shares, row.length, row.dtype) == (rows[0].shares, rows[0].length, rows[0].dtype)
        if rows and not (same and (len(rows) + 1) * _bytes(row) <= BLOCKS * BLOCK_BYTES):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _fill(buffer: np.ndarray, folder: Path, rows: Sequence[Stored], but: os.stat_result | None) -> list[int]:
    """Read matrices into consecutive places of a buffer; return the ids of those that were read."""
    size, ids = _bytes(rows[0]), list[int]()
    for row in rows:
        path = os.path.join(folder, f"{row.name}.safetensors")
        try:
            with open(path, "rb", buffering=0) as file:
                stat = os.fstat(file.fileno())
                if but is not None and os.path.samestat(stat, but):
                    continue
                file.seek(row.offset)
                got = file.readinto(buffer[len(ids) * size : (len(ids) + 1) * size].data)
        except OSError as error:
            raise ValueError(f"{path}: not readable ({error})") from error
        if (stat.st_size, stat.st_mtime_ns, got) != (row.size, row.mtime, size):
            raise ValueError(f"{path}: changed since the library was opened; open it again")
        ids.append(row.id)
    return ids
