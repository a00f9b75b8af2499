"""Store of finished stages by the hash of everything they depend on, so that no stage is computed twice.

An entry contains the hashes of its files. An entry that is damaged, or has no hashes, is computed again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

from prompttransfer.distributed import processes
from prompttransfer.files.cache import cache_folder
from prompttransfer.files.durable import Damaged, check_seal, seal, sync_folder

_PATIENCE = 2.0  # seconds of waiting for a lock before a note to the user


class StageBusy(Exception):
    """Another worker is computing the stage, and `Store.waits` is false."""


@dataclass
class StageResult:
    """Result of a stage: named tensors, and facts as JSON data.

    reused: whether it was loaded from the store; news: whether this is the first request to this store object.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    reused: bool = False
    news: bool = True


class Store:
    """A folder of finished stages.

    A result appears under its hash by one rename, so it is complete or absent. While a stage runs, its work folder
    (checkpoints) has the same hash, so an interrupted stage can resume. A lock per stage lets two runs that need the
    same stage share one computation. The lock ends with its process, even if that crashes.

    With several processes in a run (`distributed.processes`), the main process reads, locks and writes. All processes
    compute, and all get the main process's result.

    Args:
        note: called with a line of text when the store waits for another run or an entry is damaged.

    Attributes:
        waits: whether to wait for a stage that another process is computing. If false, `cached` raises `StageBusy`.
    """

    def __init__(self, folder: Path, note: Callable[[str], None] = lambda text: None) -> None:
        self.folder = folder
        self.waits = True
        self._note = note
        self._asked: set[str] = set()
        for name in ("done", "work", "locks"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def holds(self, key: dict[str, Any]) -> bool:
        """Whether the store has a result for `key`."""
        return (self.folder / "done" / key_hash(key)).is_dir()

    def is_news(self, key: dict[str, Any]) -> bool:
        """Whether this is the first request for `key` to this object."""
        name = key_hash(key)
        news = name not in self._asked
        self._asked.add(name)
        return news

    def cached(
        self, key: dict[str, Any], compute: Callable[[Path], StageResult], title: str = "a stage"
    ) -> StageResult:
        """Return the result for `key` (JSON values). Calls compute(work_folder) only if the store does not have it.

        Args:
            title: name of the stage in notes.

        Raises:
            StageBusy: another process is computing it, and `waits` is false.
        """
        name, main = key_hash(key), processes.is_main()
        work = self.folder / "work" / name
        with self._locked(name, title) if main else nullcontext():
            news = self.is_news(key)
            stored = self.find(key, title) if main else None
            if processes.broadcast(stored is not None):
                return replace(_from_main(stored or StageResult()), news=news)
            if main:
                work.mkdir(parents=True, exist_ok=True)
            result = _from_main(compute(work))
            if main:
                self.put(key, result)
        return result

    def find(self, key: dict[str, Any], title: str = "a stage") -> StageResult | None:
        """The result for `key`, or None if it is missing or damaged."""
        name = key_hash(key)
        done, work = self.folder / "done" / name, self.folder / "work" / name
        if not done.is_dir():
            return None
        try:
            result = _read(done)
        except Damaged as error:
            self._note(f"{title}: damaged in the store, computing it again ({error})")
            shutil.rmtree(done)
            return None
        if work.is_dir():  # its process ended after writing the result, before cleaning up
            shutil.rmtree(work)
        return result

    def put(self, key: dict[str, Any], result: StageResult) -> None:
        """Store a result and delete the work folder of its stage."""
        name = key_hash(key)
        work = self.folder / "work" / name
        work.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "done" / name, work / ".result", key, result)
        shutil.rmtree(work)

    @contextmanager
    def _locked(self, name: str, title: str) -> Iterator[None]:
        lock = FileLock(self.folder / "locks" / f"{name}.lock")
        try:
            lock.acquire(timeout=_PATIENCE if self.waits else 0)
        except Timeout:
            if not self.waits:
                raise StageBusy(title) from None
            self._note(f"{title}: another run is computing it; waiting")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def _from_main(result: StageResult) -> StageResult:
    """The main process's result, in every process. In the others it counts as reused."""
    if processes.count() == 1:
        return result
    tensors = {name: tensor.detach().cpu() for name, tensor in result.tensors.items()}
    shared = processes.broadcast(replace(result, tensors=tensors))
    return replace(shared, reused=shared.reused or not processes.is_main())


def key_hash(key: dict[str, Any]) -> str:
    """Hash of a stage's key, regardless of the order of its entries."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, allow_nan=False).encode()).hexdigest()[:32]


def tensor_hash(tensor: Tensor) -> str:
    """Content hash of a tensor, for keys of stages that depend on it."""
    content = tensor.detach().cpu().contiguous()
    return hashlib.sha256(f"{tuple(content.shape)}{content.dtype}".encode() + content.numpy().tobytes()).hexdigest()[
        :16
    ]


def default_folder() -> Path:
    """Folder of the stages in the cache."""
    return cache_folder() / "stages"


def _read(folder: Path) -> StageResult:
    """Read an entry of the store. Raises Damaged if a file is missing or has changed."""
    check_seal(folder)
    tensors = folder / "tensors.safetensors"
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    return StageResult(load_file(tensors) if tensors.is_file() else {}, facts, reused=True)


def _write(folder: Path, scratch: Path, key: dict[str, Any], result: StageResult) -> None:
    """Write an entry in a scratch folder on the same file system, then rename it to its final path."""
    if scratch.is_dir():
        shutil.rmtree(scratch)
    scratch.mkdir()
    try:
        for name, content in (("key.json", key), ("facts.json", result.facts)):
            (scratch / name).write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
        if result.tensors:
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in result.tensors.items()}
            save_file(tensors, scratch / "tensors.safetensors")
        seal(scratch)
        scratch.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
