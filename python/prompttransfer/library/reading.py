"""Matrices of many prompt files, block by block: each byte is read once, and a few blocks are in memory.

Threads read the next blocks while one is worked on. A file is read into a buffer that is used again and again and so
stays in a cache; mapping every file into memory instead costs a page fault for each few pages and an unmapping for each
file, which takes longer than to copy a prompt of some hundred kilobytes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from prompttransfer.library.index import Stored

BLOCK_BYTES = 1 << 22
READERS = min(8, 2 * (os.cpu_count() or 1))
_DTYPES = {"F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16}


class Block(NamedTuple):
    """Prompts of one shape: prompts (B, L, H) float32 or float64; shares: their start is the one asked for."""

    ids: list[int]
    prompts: Tensor
    shares: bool


def read_blocks(folder: Path, stored: Iterable[Stored], but: os.stat_result | None = None) -> Iterator[Block]:
    """The matrices of files in their order; a block is overwritten after the next one was asked for.

    Args:
        but: of a file that is left out.

    Raises:
        ValueError: a file is no longer the one that was indexed.
    """
    waiting: deque[tuple[Future[Block], np.ndarray]] = deque()
    free: list[np.ndarray] = []
    with ThreadPoolExecutor(READERS, "prompt-reader") as pool:
        for rows in _cut(stored):
            wanted = sum(map(_bytes, rows))
            buffer = next((one for one in free if one.nbytes >= wanted), None)
            free = [one for one in free if one is not buffer]
            if buffer is None:
                free.clear()  # of smaller prompts
                buffer = np.empty(max(wanted, BLOCK_BYTES), np.uint8)
            waiting.append((pool.submit(_filled, folder, rows, buffer, but), buffer))
            if len(waiting) > READERS:
                done, buffer = waiting.popleft()
                yield done.result()
                free.append(buffer)
        for done, _ in waiting:
            yield done.result()


def _bytes(stored: Stored) -> int:
    return stored.length * stored.width * _DTYPES[stored.dtype].itemsize


def _cut(stored: Iterable[Stored]) -> Iterator[list[Stored]]:
    """As many of one kind as a block holds, at least one."""
    rows: list[Stored] = []
    for row in stored:
        same = rows and (row.shares, row.length, row.dtype) == (rows[0].shares, rows[0].length, rows[0].dtype)
        if rows and not (same and (len(rows) + 1) * _bytes(row) <= BLOCK_BYTES):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _filled(folder: Path, rows: Sequence[Stored], buffer: np.ndarray, but: os.stat_result | None) -> Block:
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
            raise ValueError(f"{path}: changed since the library was opened; start again")
        ids.append(row.id)
    dtype = _DTYPES[rows[0].dtype]
    prompts = torch.from_numpy(buffer[: len(ids) * size]).view(dtype).view(len(ids), rows[0].length, rows[0].width)
    return Block(ids, prompts if dtype in (torch.float32, torch.float64) else prompts.float(), bool(rows[0].shares))
