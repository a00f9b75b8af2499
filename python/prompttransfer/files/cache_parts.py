"""The parts of the cache folder: their size, and how to delete them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from prompttransfer.files.assets import asset_folder, demo_model_folder
from prompttransfer.files.assets.table import ASSETS
from prompttransfer.files.cache import cache_folder, folder_bytes
from prompttransfer.files.excerpt import meant


@dataclass(frozen=True)
class Part:
    """Folders of the cache that belong together. content: short description."""

    content: str
    folders: Callable[[], list[Path]]


def _old_assets() -> list[Path]:
    """Folders of assets that an earlier version pinned."""
    current = {demo_model_folder(), *map(asset_folder, ASSETS)}
    root = cache_folder() / "assets"
    return sorted(path for path in root.glob("[!.]*") if path.is_dir() and path not in current)


# Parts other than the assets. A deleted part is created again when it is needed.
PARTS: dict[str, Part] = {
    "model": Part("the demo's model, converted", lambda: [demo_model_folder()]),
    "tasks": Part("rows read from task files", lambda: [cache_folder() / "tasks"]),
    "datasets": Part("data sets of the hub", lambda: [cache_folder() / "datasets"]),
    "stages": Part("finished stages, which later runs reuse", lambda: [cache_folder() / "stages"]),
    "old": Part("assets of earlier versions", _old_assets),
}


def check_part(name: str) -> None:
    """Raise a ValueError with a suggestion if a name is neither an asset nor a part of the cache."""
    if name not in ASSETS and name not in PARTS:
        near = meant(name, (*ASSETS, *PARTS))
        raise ValueError(f"unknown asset {name!r}{near}\nwant one of {', '.join(ASSETS)}; or {', '.join(PARTS)}")


def folders_of(name: str) -> list[Path]:
    """Existing folders of an asset or a part."""
    folders = [asset_folder(name)] if name in ASSETS else PARTS[name].folders()
    return [folder for folder in folders if folder.is_dir()]


def remove(name: str) -> int:
    """Delete an asset or a part from the cache and return the number of bytes freed."""
    freed = 0
    for folder in folders_of(name):
        freed += folder_bytes(folder)
        with FileLock(folder.with_name(folder.name + ".lock")):  # a download of it holds this lock
            # Removed by one rename, as it was created, so that nobody sees a part of it.
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".new-{folder.name}-"))
            folder.rename(scratch / "removed")
            shutil.rmtree(scratch)
    return freed


def size(count: int) -> str:
    """Format bytes for people: 93 MB, 1.5 GB."""
    if count < 1_000_000:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e6:.0f} MB" if count < 1_000_000_000 else f"{count / 1e9:.1f} GB"
