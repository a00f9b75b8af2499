"""Worker processes on this machine, each with its own GPU or an equal share of the cores."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import platform
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

import torch

from prompttransfer.distributed import processes
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.executors.base import Session
from prompttransfer.runs.executors.payload import Failure, Payload, outcome_of
from prompttransfer.runs.executors.pool import Answer, PooledWorker, WorkerPool
from prompttransfer.runs.executors.relay import Receiver, Sender
from prompttransfer.runs.workbench import read_tasks
from prompttransfer.settings.run import RunConfig

_GRACE = 5.0  # seconds for a worker to exit


class LocalWorkers:
    """An executor with `count` worker processes, which share finished stages through the store's folder.

    Raises:
        ValueError: this is one of several processes of a launcher, which already share every batch.
    """

    def __init__(self, count: int) -> None:
        if processes.count() > 1:
            launched = processes.count()
            raise ValueError(f"workers: got {count} in one of {launched} processes of a launcher; want 1 there")
        self.count = count

    @contextmanager
    def open(self, config: RunConfig, progress: ProgressReporter) -> Iterator[Session]:
        with self.pool(Payload.of(config, read_tasks(config, progress)), progress) as pool:
            yield pool

    @contextmanager
    def pool(self, payload: Payload, progress: ProgressReporter) -> Iterator[Session]:
        """Start the workers, which open `payload`."""
        with closing(_Processes(payload, self.count, progress)) as pool:
            for _ in range(self.count):
                pool.start()
            yield pool


class _Worker(PooledWorker):
    """A process and the pipe to it. place: the lowest free number, from 0."""

    def __init__(self, place: int, payload: bytes, share: Mapping[str, str], receiver: Receiver) -> None:
        self.place = place
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, payload), daemon=True)
        with _environment(share):
            self.process.start()
        theirs.close()
        super().__init__(f"worker {place + 1} on {platform.node()} (pid {self.process.pid})", receiver)

    def end(self) -> None:
        self.pipe.close()
        if self.job is None:  # it waits for a job, and returns; a busy one is stopped
            self.process.join(_GRACE)
        self.process.terminate()
        self.process.join(_GRACE)
        self.process.kill()
        self.process.join()


class _Processes(WorkerPool[_Worker]):
    def __init__(self, payload: Payload, count: int, progress: ProgressReporter) -> None:
        super().__init__(progress)
        self._payload, self._count = pickle.dumps(payload), count

    def start(self) -> None:
        place = min(set(range(self._count)) - {worker.place for worker in self.workers})
        share = _share(place, self._count)
        self.workers.append(_Worker(place, self._payload, share, self.receiver()))

    def send(self, worker: _Worker, job: str, wait: bool) -> None:
        with suppress(OSError):  # it is gone, which `answers` will notice
            _send(worker.pipe, (job, wait))

    def answers(self) -> list[Answer]:
        by_pipe = {id(worker.pipe): worker for worker in self.workers}
        answers = (self._answer(by_pipe[id(pipe)]) for pipe in wait_for([worker.pipe for worker in self.workers]))
        return [answer for answer in answers if answer]

    def _answer(self, worker: _Worker) -> Answer | None:
        try:
            kind, content = _receive(worker.pipe)
        except (EOFError, OSError):
            worker.end()
            return self.replaced(worker, f"ended with exit code {worker.process.exitcode}")
        if kind == "event":
            worker.receiver.receive(content)
        elif kind == "ready":
            self.ready(worker, content)
        else:
            job, worker.job = worker.job, None
            return Answer(str(job), worker.name, content)
        return None

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.receiver.close()
            worker.end()


def _serve(pipe: Connection, payload: bytes) -> None:
    """Main function of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker = pickle.loads(payload).open(Sender(lambda event: _send(pipe, ("event", event))))
        _send(pipe, ("ready", worker.plan))
    except Exception as error:
        _send(pipe, ("ready", Failure.of(error)))
        return
    with suppress(EOFError):  # the parent has closed the pipe
        while True:
            job, wait = _receive(pipe)
            _send(pipe, ("answer", outcome_of(worker, job, wait)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


# Not `Connection.send`: torch would share tensors through memory that ends with the sending process.
def _send(pipe: Connection, message: Any) -> None:
    pipe.send_bytes(pickle.dumps(message))


def _receive(pipe: Connection) -> Any:
    return pickle.loads(pipe.recv_bytes())


def _share(place: int, count: int) -> dict[str, str]:
    """Environment variables of a worker: its GPU, or its number of threads."""
    gpus = torch.cuda.device_count()
    if not gpus:
        return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else [str(gpu) for gpu in range(gpus)]
    return {"CUDA_VISIBLE_DEVICES": visible[place % len(visible)]}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Start processes with these variables, which apply from their first import, and with Ctrl-C left to the parent."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    main = threading.current_thread() is threading.main_thread()
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    try:
        yield
    finally:
        if interrupt is not None:
            signal.signal(signal.SIGINT, interrupt)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
