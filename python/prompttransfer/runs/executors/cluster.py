"""A Ray cluster: workers on all of its machines, without a shared folder.

Stages, tasks, and a model in a local folder are sent through Ray's object store. The machine that starts the run keeps
the store of finished stages and the run folder. Needs the extra `cluster`.
"""

from __future__ import annotations

import logging
import math
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import ray
from datasets import Dataset
from datasets.table import InMemoryTable
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from prompttransfer.files.cache import built_once, cache_folder
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.store import StageBusy, StageResult, Store, default_folder, key_hash
from prompttransfer.runs.executors.base import Session
from prompttransfer.runs.executors.payload import Failure, Outcome, Payload, outcome_of
from prompttransfer.runs.executors.pool import LOADING, Answer, PooledWorker, WorkerPool
from prompttransfer.runs.executors.relay import Event, Receiver, Sender
from prompttransfer.runs.workbench import RunTasks, model_source, read_tasks
from prompttransfer.runs.worker import RunPlan
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks.task import Task

_POLL = 0.5  # seconds between two checks of a stage that another worker computes, and of the workers' progress
_PATIENCE = 60.0  # seconds without a worker before a note to the user
_BESIDE_WEIGHTS = 1 << 30  # bytes of a worker's memory in addition to the weights


class Cluster:
    """An executor on a Ray cluster.

    Args:
        address: address of the cluster. "auto": the cluster in RAY_ADDRESS, else a new one on this machine for the run.
            (Ray's own "auto" hangs if a killed cluster has left its address.)
        workers: number of workers; None: one per GPU, or as many as the cores allow with OMP_NUM_THREADS threads each
            (default 1).
    """

    def __init__(self, address: str = "auto", workers: int | None = None) -> None:
        self.address, self.workers = address, workers

    @contextmanager
    def open(self, config: RunConfig, progress: ProgressReporter) -> Iterator[Session]:
        tasks, model = read_tasks(config, progress), Path(model_source(config.model, progress))
        payload = Payload.of(config, _in_memory(tasks))
        store = config.cache or default_folder()
        with self.pool(payload, store.absolute(), model.absolute() if model.is_dir() else None, progress) as pool:
            yield pool

    @contextmanager
    def pool(self, payload: Payload, store: Path, model: Path | None, progress: ProgressReporter) -> Iterator[Session]:
        """Start the workers, which open `payload`."""
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        with ExitStack() as stack:
            if not ray.is_initialized():
                address = os.environ.get("RAY_ADDRESS", "local") if self.address == "auto" else self.address
                try:
                    ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
                except ConnectionError as error:
                    raise ConnectionError(
                        f"no Ray cluster answers at {address}; if it needs a token, set RAY_AUTH_MODE=token on all "
                        "machines and copy ~/.ray/auth_token from the first machine to the others"
                    ) from error
                stack.callback(ray.shutdown)
            yield stack.enter_context(closing(_Actors(payload, store, model, self.workers, progress)))


class _Stages:
    """The actor on the machine that started the run: its store of stages, its model's files, the workers' progress."""

    def __init__(self, folder: Path, model: Path | None) -> None:
        self._store = Store(folder)
        self._model = model
        self._claims: dict[str, str] = {}
        self._events: list[tuple[str, Event]] = []

    def claim(self, key: dict[str, Any], worker: str) -> StageResult | str:
        """The result, or the name of the worker that computes it: this one, unless another does."""
        result = self._store.find(key)
        return result or self._claims.setdefault(key_hash(key), worker)

    def holds(self, key: dict[str, Any]) -> bool:
        return self._store.holds(key)

    def put(self, key: dict[str, Any], result: StageResult) -> None:
        if not self._store.holds(key):  # otherwise two workers did it, because one was considered lost
            self._store.put(key, result)
        self._claims.pop(key_hash(key), None)

    def release(self, worker: str) -> None:
        """Drop all claims of a worker."""
        self._claims = {name: holder for name, holder in self._claims.items() if holder != worker}

    def tell(self, worker: str, event: Event) -> None:
        self._events.append((worker, event))

    def events(self) -> list[tuple[str, Event]]:
        """Events from the workers since the last call."""
        events, self._events = self._events, []
        return events

    def model_files(self) -> dict[str, bytes]:
        """The model's files by name."""
        assert self._model is not None
        return {path.name: path.read_bytes() for path in sorted(self._model.iterdir()) if path.is_file()}


class _ClusterStore(Store):
    """Access to the finished stages on the machine that started the run. Checkpoints stay on this machine."""

    def __init__(self, folder: Path, stages: Any, worker: str) -> None:
        super().__init__(folder)
        self._stages, self._worker = stages, worker

    def holds(self, key: dict[str, Any]) -> bool:
        return bool(ray.get(self._stages.holds.remote(key)))

    def cached(
        self, key: dict[str, Any], compute: Callable[[Path], StageResult], title: str = "a stage"
    ) -> StageResult:
        news = self.is_news(key)
        while (claim := ray.get(self._stages.claim.remote(key, self._worker))) != self._worker:
            if isinstance(claim, StageResult):
                return replace(claim, news=news)
            if not self.waits:
                raise StageBusy(title)
            time.sleep(_POLL)
        work = self.folder / "work" / key_hash(key)
        work.mkdir(parents=True, exist_ok=True)
        try:
            result = compute(work)
            tensors = {name: tensor.detach().cpu() for name, tensor in result.tensors.items()}
            ray.get(self._stages.put.remote(key, replace(result, tensors=tensors)))
        except BaseException:
            ray.get(self._stages.release.remote(self._worker))
            raise
        shutil.rmtree(work)
        return replace(result, news=news)


class _RayWorker:
    """Actor that does jobs."""

    def __init__(self, payload: Payload, stages: Any, name: str, model: Path | None) -> None:
        progress = Sender(lambda event: stages.tell.remote(name, event))
        self._failure: Failure | None = None
        try:
            if model is not None and not _is_here(model):
                model = _fetched(stages)
            store = _ClusterStore(Path(tempfile.mkdtemp()), stages, name)
            self._worker = payload.open(progress, store=store, model=model)
        except Exception as error:
            self._failure = Failure.of(error)

    def ready(self) -> tuple[str, RunPlan | Failure]:
        """Wait until the model is loaded; return this worker's machine and process, and the plan of the run."""
        return f"{platform.node()} (pid {os.getpid()})", self._failure or self._worker.plan

    def do(self, job: str, wait: bool) -> Outcome:
        return outcome_of(self._worker, job, wait)


def _is_here(model: Path) -> bool:
    return model.is_dir()


def _fetched(stages: Any) -> Path:
    """Copy the model to this machine and return its folder."""
    files = ray.get(stages.model_files.remote())
    name = key_hash({name: sha256(content).hexdigest() for name, content in files.items()})
    folder = cache_folder() / "cluster-models" / name
    with built_once(folder, sealed=True) as work:
        for name, content in files.items() if work else ():
            (work / name).write_bytes(content)
    return folder


class _Handle(PooledWorker):
    """An actor and its current call."""

    def __init__(self, name: str, receiver: Receiver, actor: Any, reference: Any) -> None:
        super().__init__(name, receiver)
        self.id, self.actor, self.reference = name, actor, reference


class _Actors(WorkerPool[_Handle]):
    def __init__(
        self, payload: Payload, store: Path, model: Path | None, workers: int | None, progress: ProgressReporter
    ) -> None:
        super().__init__(progress)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._stages = ray.remote(_Stages).options(num_cpus=0, scheduling_strategy=here).remote(store, model)
        self._payload, self._model = ray.put(payload), model
        self._started, self._next_look, self._patience = 0, 0.0, time.monotonic() + _PATIENCE
        total, threads = ray.cluster_resources(), int(os.environ.get("OMP_NUM_THREADS") or 1)
        gpus = int(total.get("GPU", 0))
        weights = sum(path.stat().st_size for path in model.iterdir()) if model else 0
        self._options = {
            "num_cpus": threads,
            "num_gpus": 1 if gpus else 0,
            "memory": 2 * weights + _BESIDE_WEIGHTS,
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads)}},
        }
        for _ in range(workers or gpus or max(1, int(total.get("CPU", 1)) // threads)):
            self.start()

    def start(self) -> None:
        self._started += 1
        name = f"worker {self._started}"
        actor = ray.remote(_RayWorker).options(**self._options).remote(self._payload, self._stages, name, self._model)
        self.workers.append(_Handle(name, self.receiver(), actor, actor.ready.remote()))

    def send(self, worker: _Handle, job: str, wait: bool) -> None:
        worker.reference = worker.actor.do.remote(job, wait)

    def answers(self) -> list[Answer]:
        busy = {worker.reference: worker for worker in self.workers if worker.job is not None}
        done, _ = ray.wait(list(busy), timeout=_POLL)
        if time.monotonic() >= self._next_look:
            self._look()
        return [answer for reference in done if (answer := self._answer(busy[reference]))]

    def _look(self) -> None:
        """Show the progress of the workers."""
        receivers = {worker.id: worker.receiver for worker in self.workers}
        for name, event in ray.get(self._stages.events.remote()):
            if name in receivers:
                receivers[name].receive(event)
        now = time.monotonic()
        self._next_look = now + _POLL
        if self._plan is None and now > self._patience:
            self._patience = math.inf
            wanted = {name: value for name, value in self._options.items() if name != "runtime_env" and value}
            self.progress.note(f"waiting for the cluster to place a worker with {wanted}")

    def _answer(self, worker: _Handle) -> Answer | None:
        try:
            content = ray.get(worker.reference)
        except (RayActorError, ObjectLostError) as error:
            ray.kill(worker.actor)
            ray.get(self._stages.release.remote(worker.id))
            why = f": {error}" if worker.job == LOADING else ""
            return self.replaced(worker, f"was lost ({type(error).__name__}{why})")
        if worker.job:
            job, worker.job = worker.job, None
            return Answer(job, worker.name, content)
        place, plan = content
        worker.name = f"{worker.id} on {place}"
        self.ready(worker, plan)
        return None

    def close(self) -> None:
        """End all workers."""
        with suppress(RayError):  # the cluster is gone
            self._look()
        for worker in self.workers:
            worker.receiver.close()
            ray.kill(worker.actor)
        ray.kill(self._stages)


def _in_memory(tasks: RunTasks) -> RunTasks:
    """Load tasks into memory, so that pickling sends their rows and not the paths of files on this machine."""

    def loaded(task: Task) -> Task:
        splits = {
            name: Dataset(InMemoryTable(rows.with_format("arrow")[:]), info=rows.info)
            for name, rows in (("train", task.train), ("validation", task.validation), ("test", task.test))
        }
        return replace(task, **splits)

    return RunTasks(tuple(map(loaded, tasks.sources)), {name: loaded(task) for name, task in tasks.targets.items()})
