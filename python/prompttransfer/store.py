"""Finished stages by the hash of everything they depend on, so that no stage is ever computed twice."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from prompttransfer import processes
from prompttransfer.cache import cache_folder


@dataclass
class Result:
    """What a stage leaves: named tensors, and JSON facts.

    reused: it was found in the store; news: this store object is asked for it for the first time.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    reused: bool = False
    news: bool = True


class Store:
    """A folder of finished stages.

    A result appears under its hash by one rename, so it is complete or absent. While a stage runs, its work folder
    (checkpoints) is kept under the same hash: an interrupted stage finds it again. A lock per stage lets two runs
    that need the same stage share one computation.

    Of several processes of one run (`prompttransfer.processes`), the store of the main one counts: it looks, locks and
    writes, all of them compute, and all get its result.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: set[str] = set()
        for name in ("done", "work", "locks"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def holds(self, key: dict[str, Any]) -> bool:
        """Whether the result for `key` is there."""
        return (self.folder / "done" / key_hash(key)).is_dir()

    def cached(self, key: dict[str, Any], compute: Callable[[Path], Result]) -> Result:
        """The result for `key` (JSON values); compute(work_folder) is called only when it is not there yet."""
        name, main = key_hash(key), processes.is_main()
        done, work = self.folder / "done" / name, self.folder / "work" / name
        with FileLock(self.folder / "locks" / f"{name}.lock") if main else nullcontext():
            news = name not in self._asked
            self._asked.add(name)
            if processes.broadcast(done.is_dir()):
                return replace(_from_main(_read(done) if main else Result()), news=news)
            if main:
                work.mkdir(parents=True, exist_ok=True)
            result = _from_main(compute(work))
            if main:
                _write(done, key, result)
                shutil.rmtree(work)
        return result


def _from_main(result: Result) -> Result:
    """The main process's result, in every process; to the others it is one that they find."""
    if processes.count() == 1:
        return result
    facts, reused = processes.broadcast((result.facts, result.reused))
    return Result(processes.broadcast_tensors(result.tensors), facts, reused or not processes.is_main())


def key_hash(key: dict[str, Any]) -> str:
    """Hash of a stage's key; the order of its entries does not matter."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]


def tensor_hash(tensor: Tensor) -> str:
    """Content hash of a tensor, for keys of stages that start from it."""
    content = tensor.detach().cpu().contiguous()
    return hashlib.sha256(f"{tuple(content.shape)}{content.dtype}".encode() + content.numpy().tobytes()).hexdigest()[
        :16
    ]


def default_folder() -> Path:
    """Stages in the cache's folder."""
    return cache_folder() / "stages"


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=1, allow_nan=False)
    Path(temporary).chmod(0o644)
    os.replace(temporary, path)


def _read(folder: Path) -> Result:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    tensors = folder / "tensors.safetensors"
    return Result(load_file(tensors) if tensors.is_file() else {}, facts, reused=True)


def _write(folder: Path, key: dict[str, Any], result: Result) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        write_json(temporary / "key.json", key)
        write_json(temporary / "facts.json", result.facts)
        if result.tensors:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in result.tensors.items()}
            save_file(tensors, temporary / "tensors.safetensors")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
