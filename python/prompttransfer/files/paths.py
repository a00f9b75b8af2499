"""Paths that people write, with ~ for a home folder, which not every account has."""

from __future__ import annotations

import os
import re
from pathlib import Path

_CONTAINER = "name a folder in PROMPTTRANSFER_CACHE (and in HF_HOME, for models of the hub)"


class NoHome(RuntimeError):
    """A home folder is needed, and this account has none."""


def home() -> Path:
    """The home folder; raises NoHome where HOME is not set and the account has no entry that names one."""
    try:
        return Path.home()
    except RuntimeError:
        raise NoHome(f"no home folder: HOME is not set and user {os.getuid()} has no entry; {_CONTAINER}") from None


def expanded(path: str | Path) -> Path:
    """The path with the home folder in place of ~ or ~name at its start; a name that nobody has stays as it is.

    Raises:
        NoHome: it starts with ~, and this account has no home folder.
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
    """For an account without a home folder: the hub's files go below PROMPTTRANSFER_CACHE too, if that is named.

    To be called before anything of the hub is imported, which would make a folder named ~ in the current one.
    """
    root = os.environ.get("PROMPTTRANSFER_CACHE")
    try:
        home()
    except NoHome:
        if root and not root.startswith("~"):
            os.environ.setdefault("HF_HOME", os.path.join(root, "huggingface"))


def anywhere(model: str) -> str:
    """A model's name that means the same in every folder: the whole path of a folder that is there, else the name."""
    path = expanded(model)
    if model in ("", "demo") or not os.path.isdir(path):
        return model
    return str(path.resolve() if ".." in path.parts else path.absolute())


def file_stem(name: str) -> str:
    """A name as part of a file's: letters, digits, _, . and - stay, the rest becomes hyphens. It may come out empty."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")
