"""Jobs that any number of processes and machines do together, through files in a shared folder and nothing else.

A worker has a file that says that it is there, and one for the job it is at. Both are created exclusively (O_EXCL), so
one of several workers gets a job, and a thread renews their time while the worker lives. A job is free again when the
time of its file is `STALE` seconds old, by the clock of the file system, or its process is gone from this machine.
Whoever takes it over creates the file of the next generation, exclusively again, and looks once more whether another
one was created meanwhile; no file is changed by others, so there is no moment in which two of them can win. What a
worker that only slept takes up again is done twice, no worse: jobs must have the same result whoever does them.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from uuid import uuid4

import psutil

BEAT, STALE, POLL = 20.0, 180.0, 2.0  # seconds: between two renewals, until a job is free, between two looks

_PRESENCE, _CLAIM, _DOOR = ".worker", ".claim", ".door"


@dataclass(frozen=True)
class Worker:
    """Who made a file. key: workers that do the same jobs have the same one."""

    host: str = "an unknown machine"
    pid: int = 0
    namespace: str = ""
    started: float = 0.0
    key: str = ""

    @classmethod
    def here(cls, key: str) -> Worker:
        """This process."""
        return cls(socket.gethostname(), os.getpid(), _namespace(), psutil.Process().create_time(), key)

    def __str__(self) -> str:
        return f"{self.host} (pid {self.pid})"

    @property
    def gone(self) -> bool:
        """It was a process of this machine that has ended; its number may belong to another one by now."""
        if (self.host, self.namespace) != (socket.gethostname(), _namespace()):
            return False
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) > 1)
        except psutil.NoSuchProcess:
            return True


class WorkList:
    """A worker's view of the jobs of a folder; use as a context, which ends what it holds.

    Args:
        folder: where the files are, shared by all workers; gone when the last worker leaves.
        key: see `Worker`.
        note: told, in a line, whom this worker waits for.
        last: called by the last worker that leaves, while nobody comes.
        beat, stale, poll: see the head of this file; the same for all workers.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        note: Callable[[str], None] = lambda text: None,
        *,
        last: Callable[[], None] = lambda: None,
        beat: float = BEAT,
        stale: float = STALE,
        poll: float = POLL,
    ) -> None:
        self.folder = folder
        self.me = Worker.here(key)
        self._note = note
        self._last = last
        self._beat, self._stale, self._poll = beat, stale, poll
        self._presence = folder / f"{self.me.host}-{self.me.pid}-{uuid4().hex[:8]}{_PRESENCE}"
        self._held: dict[str, int] = {}
        self._left = threading.Event()

    def __enter__(self) -> WorkList:
        self._create(self._presence)
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        with suppress(OSError):  # a folder that is gone or full must not hide why this worker ends
            for name in list(self._held):
                self._release(name)
            try:
                with self.door():
                    self._leave()
            finally:
                self._presence.unlink(missing_ok=True)  # also where a full disk has no room for the door
            self.folder.rmdir()  # refused unless this was the last one

    @contextmanager
    def door(self) -> Iterator[None]:
        """A block that one worker at a time runs; workers leave through it too, so whom it finds there stays."""
        while not self._claim(_DOOR, self._generations().get(_DOOR, -1)):
            time.sleep(self._poll * random.uniform(0.5, 1))  # or two that met would meet again
        try:
            yield
        finally:
            self._release(_DOOR)

    def _leave(self) -> None:
        """The last one takes along what dead workers left."""
        now, door = self._now(), self._path(_DOOR, self._held[_DOOR])
        self._presence.unlink()
        files = [path for path in self._files() if path != door]
        if not any(path.suffix == _PRESENCE and self._worker(path, now) for path in files):
            for path in files:
                path.unlink(missing_ok=True)
            self._last()

    def others(self) -> list[Worker]:
        """The workers that are there beside this one."""
        now = self._now()
        files = [path for path in self._files() if path.suffix == _PRESENCE and path != self._presence]
        return [worker for path in files if (worker := self._worker(path, now))]

    def jobs(self, names: Iterable[str], done: Callable[[str], bool]) -> Iterator[str]:
        """Each job that is for this worker to do, in order, until all jobs are done by someone.

        A job is held until the next one is asked for. Waits while others are at what is left, and takes over what they
        leave.

        Args:
            done: whether a job's result is there.
        """
        left, told = dict.fromkeys(names), ""
        while left:
            worked = False
            generations = self._generations()
            for name in list(left):
                if not done(name):
                    if not self._claim(name, generations.get(_stem(name), -1)):
                        continue
                    if not done(name):  # else finished between the two looks
                        worked = True
                        yield name
                    self._release(name)
                del left[name]
            if left and not worked:
                at_work = self._holders(left)
                text = f"waiting for {len(left)} jobs of {', '.join(map(str, at_work))}"
                if at_work and text != told:
                    self._note(text)
                    told = text
                time.sleep(self._poll)

    def _claim(self, name: str, newest: int) -> bool:
        """Whether the job is this worker's now; newest: generation of its file, -1 for none."""
        if newest >= 0:
            path = self._path(name, newest)
            if self._worker(path, self._now()) or not path.exists():  # one that was just released: look again
                return False
        mine = self._path(name, newest + 1)
        try:
            self._create(mine)
        except FileExistsError:
            return False
        # Who looked before a release and who looked after it may have created files of different generations.
        there = [path for path in self._files() if path.suffix == _CLAIM and _job_of(path) == _stem(name)]
        if mine not in there or any(self._worker(path, self._now()) for path in there if path != mine):
            mine.unlink(missing_ok=True)
            return False
        self._held[name] = newest + 1
        return True

    def _release(self, name: str) -> None:
        newest = self._held.pop(name)
        for generation in range(newest + 1):
            self._path(name, generation).unlink(missing_ok=True)

    def _create(self, path: Path) -> None:
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                file = path.open("x", encoding="utf-8")
                break
            except FileNotFoundError:  # the last of the others left, and took the folder along
                continue
        try:
            with file:
                json.dump(asdict(self.me), file)
        except OSError:
            path.unlink()
            raise

    def _path(self, name: str, generation: int) -> Path:
        return self.folder / f"{_stem(name)}.{generation}{_CLAIM}"

    def _files(self) -> list[Path]:
        try:
            return [Path(entry.path) for entry in os.scandir(self.folder)]
        except FileNotFoundError:
            return []

    def _generations(self) -> dict[str, int]:
        """The newest generation of each job that has a file, by the stem of the file."""
        newest: dict[str, int] = {}
        for path in self._files():
            if path.suffix == _CLAIM:
                stem, generation = _job_of(path), int(path.stem.rpartition(".")[2])
                newest[stem] = max(newest.get(stem, -1), generation)
        return newest

    def _holders(self, names: Iterable[str]) -> list[Worker]:
        now, generations = self._now(), self._generations()
        paths = [self._path(name, generations[_stem(name)]) for name in names if _stem(name) in generations]
        return list(dict.fromkeys(worker for path in paths if (worker := self._worker(path, now))))

    def _worker(self, path: Path, now: float) -> Worker | None:
        """The living worker that a file belongs to."""
        try:
            with path.open(encoding="utf-8") as file:  # opened: a network file system then asks for the current time
                age = now - os.fstat(file.fileno()).st_mtime
                text = file.read()
        except FileNotFoundError:
            return None
        try:
            worker = Worker(**json.loads(text))
        except (ValueError, TypeError):  # it is being written, or damaged
            worker = Worker()
        return None if age > self._stale or worker.gone else worker

    def _now(self) -> float:
        """The time by the clock that the times of files are of."""
        os.utime(self._presence)
        return self._presence.stat().st_mtime

    def _renew(self) -> None:
        while not self._left.wait(self._beat):
            for path in [self._presence, *(self._path(*held) for held in list(self._held.items()))]:
                with suppress(OSError):
                    os.utime(path)


def _stem(name: str) -> str:
    return name.replace("/", "@")


def _job_of(claim: Path) -> str:
    """The stem of the name of the job that a file claims."""
    return claim.stem.rpartition(".")[0]


def _namespace() -> str:
    """What tells the process numbers of containers of one machine apart, where the system has it."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""
