"""Faults, injected: a disk that is full or read-only from a certain write on, memory that is out, bytes that change."""

from __future__ import annotations

import errno
import os
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

WRITERS = (
    "os.mkdir",
    "os.replace",
    "os.fsync",
    "torch.save",
    "prompttransfer.files.store.save_file",
    "prompttransfer.training.trainer.save_file",
    "prompttransfer.interchange.files.save_file",
    "prompttransfer.tasks.rendered.pa.OSFile",
)


class Disk:
    """Lets this many writes pass and refuses all others. writes: number of writes so far."""

    def __init__(self, passing: int, code: int = errno.ENOSPC) -> None:
        self.passing, self.code, self.writes = passing, code, 0

    def wrapped(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.writes += 1
            if self.writes > self.passing:
                if write is torch.save:  # which hides the reason
                    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
                raise OSError(self.code, os.strerror(self.code))
            return write(*arguments, **named)

        return call


@contextmanager
def failing_disk(disk: Disk) -> Iterator[Disk]:
    with pytest.MonkeyPatch.context() as patch:
        for name in WRITERS:
            patch.setattr(name, disk.wrapped(pkgutil.resolve_name(name)))
        yield disk


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Keep the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def files(folder: Path) -> list[Path]:
    """Files with content below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
