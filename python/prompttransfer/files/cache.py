"""The folder of what is made once and kept: assets, rendered rows, finished stages."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from prompttransfer.files.durable import Damaged, check_seal, seal
from prompttransfer.files.paths import expanded, home


def cache_folder() -> Path:
    """$PROMPTTRANSFER_CACHE, else ~/.cache/prompttransfer; raises NoHome where neither is there."""
    root = os.environ.get("PROMPTTRANSFER_CACHE")
    return expanded(root) if root else home() / ".cache" / "prompttransfer"


@contextmanager
def built_once(folder: Path, *, sealed: bool = False) -> Iterator[Path | None]:
    """An empty folder that becomes `folder` when the block ends well; None when that is there. One process at a time.

    What the block writes beside the empty folder, in its parent, is deleted at the end.

    Args:
        sealed: it gets the hashes of its files (`durable.seal`); without them, or when a file is not what was written,
            it is deleted and made again.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(folder.name + ".lock")):
        if folder.is_dir() and sealed:
            try:
                check_seal(folder)
            except Damaged:
                shutil.rmtree(folder)
        if folder.is_dir():
            yield None
            return
        for leftover in folder.parent.glob(f".new-{folder.name}-*"):  # of a killed process: the lock is ours
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".new-{folder.name}-"))
        try:
            made = scratch / "made"
            made.mkdir()
            yield made
            if sealed:
                seal(made)
            made.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Size of the files below a folder, which may come and go."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
