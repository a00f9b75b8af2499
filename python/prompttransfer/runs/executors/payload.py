"""Input of a worker process, and its answers."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from pathlib import Path

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.store import StageBusy, Store
from prompttransfer.methods import METHODS, Method, register_method
from prompttransfer.runs.run_folder import JobOutput
from prompttransfer.runs.workbench import RunTasks, Workbench
from prompttransfer.runs.worker import Worker
from prompttransfer.settings.run import RunConfig


@dataclass(frozen=True)
class Payload:
    """Settings and tasks of a run, and the user's own methods, to `open` in another process."""

    settings: str
    tasks: RunTasks
    methods: tuple[type[Method], ...]

    @classmethod
    def of(cls, config: RunConfig, tasks: RunTasks) -> Payload:
        methods = (type(METHODS[name]) for name in config.methods)
        own = tuple(method for method in methods if not method.__module__.startswith("prompttransfer."))
        # A worker may be started in another folder.
        config = config.model_copy(update={"output": config.output.absolute()})
        return cls(config.model_dump_json(), tasks, own)

    def open(self, progress: ProgressReporter, *, store: Store | None = None, model: Path | None = None) -> Worker:
        """Load the model; see `Workbench`."""
        for method in self.methods:
            if method.name not in METHODS:
                register_method(method)
        config = RunConfig.model_validate_json(self.settings)
        return Worker(Workbench(config, progress, self.tasks, store=store, model=model))


@dataclass(frozen=True)
class Failure:
    """An error on a worker. trace: its traceback there."""

    error: Exception
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        trace = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # some errors cannot be copied, because they need more arguments than they keep
            error = RuntimeError(f"{type(error).__name__}: {error}")
        return cls(error, trace)


class RemoteTraceback(Exception):
    """The traceback of an error on a worker, as text."""


Outcome = JobOutput | StageBusy | Failure


def outcome_of(worker: Worker, job: str, wait: bool) -> Outcome:
    """Do a job. Errors become answers."""
    try:
        return worker.do(job, wait=wait)
    except StageBusy as busy:
        return busy
    except Exception as error:
        return Failure.of(error)
