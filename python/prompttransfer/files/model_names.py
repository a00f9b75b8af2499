"""Names of models: those on this machine, suggestions for a wrong name, and whether the hub answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from prompttransfer.files.paths import NoHome, expanded, home


def hub_models() -> list[str]:
    """Hub ids in the hub's cache, from its folder names (models--owner--name)."""
    try:
        root = hub_folder()
    except NoHome:
        return []
    return sorted("/".join(folder.name.split("--")[1:]) for folder in root.glob("models--*"))


def hub_folder() -> Path:
    """Folder of the hub's files: $HF_HUB_CACHE, $HF_HOME/hub, or in the home folder. Raises NoHome if there is none."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return expanded(named)
    if named := os.environ.get("HF_HOME"):
        return expanded(named) / "hub"
    return home() / ".cache" / "huggingface" / "hub"


def hub_fault(address: str, seconds: float = 5.0) -> str:
    """Reason why a hub does not answer; empty if it does, even with an error."""
    from urllib import error, request  # slow to import for a shell that completes names

    try:
        with request.urlopen(request.Request(address, method="HEAD"), timeout=seconds):
            return ""
    except error.HTTPError:
        return ""
    except (OSError, ValueError) as failure:
        return str(getattr(failure, "reason", failure))


@contextmanager
def quiet_hub() -> Iterator[None]:
    """Switch off progress bars and warnings of huggingface_hub, which warns at every attempt to reach a silent hub."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hub = logging.getLogger("huggingface_hub")
    level, bars = hub.level, not are_progress_bars_disabled()
    hub.setLevel(logging.ERROR)
    disable_progress_bars()
    try:
        yield
    finally:
        hub.setLevel(level)
        if bars:
            enable_progress_bars()


def suggestion(name: str) -> str:
    """A similar name: demo, a model in the hub's cache, or an existing folder; empty if there is none."""
    path = expanded(name)
    folders = []
    if path.parent.is_dir():
        folders = [str(path.parent / each.name) for each in path.parent.iterdir() if (each / "config.json").is_file()]
    near = get_close_matches(str(path), folders, n=1, cutoff=0.75) or get_close_matches(
        name, ["demo", *hub_models()], n=1, cutoff=0.7
    )
    return near[0] if near else ""
