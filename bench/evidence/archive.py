"""Pack all cells of a study into one file, so that another machine can continue it and a reader can check it."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from bench.evidence.studies import Study
from prompttransfer.files.durable import replacing, write_json

_FOLDERS = ("cells", "history")


def archive_of(study: Study, archives: Path) -> Path:
    """Path of a study's archive in the folder of archives."""
    return archives / f"{study.name}.json.xz"


def pack(folder: Path, archive: Path) -> None:
    """Write the cells and histories of a study's folder as one JSON object: path -> content."""
    paths = sorted(path for name in _FOLDERS for path in (folder / name).glob("*.json"))
    content = {str(path.relative_to(folder)): json.loads(path.read_text(encoding="utf-8")) for path in paths}
    archive.parent.mkdir(parents=True, exist_ok=True)
    with replacing(archive) as temporary:
        temporary.write_bytes(lzma.compress(json.dumps(content).encode()))


def unpack(archive: Path, folder: Path) -> None:
    """Put the cells and histories of an archive into a study's folder, without replacing existing ones."""
    if not archive.is_file():
        return
    for name, value in json.loads(lzma.decompress(archive.read_bytes())).items():
        path = folder / name
        if not path.exists():
            write_json(path, value)
