"""Paths with ~ for a home folder, which not every account has."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CONTAINER = "set PROMPTTRANSFER_CACHE to a folder (and HF_HOME, for models of the hub)"


class NoHome(RuntimeError):
    """A home folder is needed, and this account has none."""


def home() -> Path:
    """The home folder. Raises NoHome if HOME is not set and the account has no home folder."""
    try:
        return Path.home()
    except RuntimeError:
        raise NoHome(f"no home folder: HOME is not set and user {os.getuid()} has no entry; {_CONTAINER}") from None


def expanded(path: str | Path) -> Path:
    """Replace ~ or ~name at the start of a path by the home folder. An unknown ~name stays as it is.

    Raises:
        NoHome: the path starts with ~, and this account has no home folder.
    """
    path = Path(path)
    first = path.parts[0] if path.parts else ""
    if first == "~":
        return home().joinpath(*path.parts[1:])
    try:
        return path.expanduser()
    except RuntimeError:
        return path


def settle_home() -> None:
    """Without a home folder, put the hub's files below PROMPTTRANSFER_CACHE, if that is set.

    Call this before importing anything of the hub, which would create a folder named ~ in the current one.
    """
    root = os.environ.get("PROMPTTRANSFER_CACHE")
    try:
        home()
    except NoHome:
        if root and not root.startswith("~"):
            os.environ.setdefault("HF_HOME", os.path.join(root, "huggingface"))


def anywhere(model: str) -> str:
    """A model's name that is valid in any working directory: the absolute path of an existing folder, else the name."""
    path = expanded(model)
    if model in ("", "demo") or not os.path.isdir(path):
        return model
    return str(path.resolve() if ".." in path.parts else path.absolute())


def file_stem(name: str) -> str:
    """A name as part of a file's: letters, digits, _, . and - stay, the rest becomes hyphens. It may come out empty."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")
