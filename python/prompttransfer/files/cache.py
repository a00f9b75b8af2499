"""The cache folder for assets, rendered rows and finished stages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from prompttransfer.files.durable import Damaged, check_seal, new_folder, seal
from prompttransfer.files.paths import expanded, home


def cache_folder() -> Path:
    """$PROMPTTRANSFER_CACHE, else ~/.cache/prompttransfer. Raises NoHome if there is neither."""
    root = os.environ.get("PROMPTTRANSFER_CACHE")
    return expanded(root) if root else home() / ".cache" / "prompttransfer"


@contextmanager
def built_once(folder: Path, *, sealed: bool = False) -> Iterator[Path | None]:
    """Yield an empty folder that becomes `folder` when the block succeeds, or None if `folder` exists.

    Only one process at a time enters the block. Anything it writes to the parent of the empty folder is deleted at the
    end.

    Args:
        sealed: add the hashes of the files (`durable.seal`). A folder without them, or with a damaged file, is deleted
            and built again.
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
        for leftover in folder.parent.glob(f".new-{folder.name}-*"):  # of a killed process, because we hold the lock
            shutil.rmtree(leftover, ignore_errors=True)
        with new_folder(folder) as target:
            target.mkdir()
            yield target
            if sealed:
                seal(target)


def folder_bytes(folder: Path) -> int:
    """Total size of the files below a folder. Files may appear and disappear meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
