"""The folder of what is made once and kept: assets, rendered rows, finished stages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from prompttransfer.files.durable import Damaged, check_seal
from prompttransfer.files.paths import expanded, home


def cache_folder() -> Path:
    """$PROMPTTRANSFER_CACHE, else ~/.cache/prompttransfer.

    Raises:
        NoHome: neither is there.
    """
    root = os.environ.get("PROMPTTRANSFER_CACHE")
    return expanded(root) if root else home() / ".cache" / "prompttransfer"


@contextmanager
def built_once(folder: Path, *, sealed: bool = False) -> Iterator[Path | None]:
    """A scratch folder in which `folder` is made, or None when it is there; one process at a time, nothing left.

    Args:
        sealed: it has the hashes of its files (`durable.seal`); without them, or when a file is not what was written,
            it is deleted and made again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir() and sealed:
            try:
                check_seal(folder, required=True)
            except Damaged:
                shutil.rmtree(folder)
        if folder.is_dir():
            yield None
            return
        for leftover in folder.parent.glob(f".new-{folder.name}-*"):  # of a killed process: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".new-{folder.name}-"))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
