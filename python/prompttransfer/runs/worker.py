"""A worker: the loaded model and tasks of a run in one process, and its jobs."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.store import Store
from prompttransfer.runs.jobs import card_of, jobs_of, shared_jobs, working_order
from prompttransfer.runs.run_folder import JobOutput, PromptFile, machine_facts
from prompttransfer.runs.workbench import RunTasks, Workbench
from prompttransfer.settings.run import RunConfig

SOURCES = "sources"


@dataclass(frozen=True)
class RunPlan:
    """The jobs of a run, and the contents of its folder that do not depend on them.

    Attributes:
        order: names of the jobs, in the order in which they are done.
        groups: group of each job: its target and seed, whose jobs share their first stages, or `SOURCES` for jobs that
            others depend on.
        keys: for each job, in the order of the results, the hash of everything it depends on.
        facts: model, commit, machine and versions, for results.json.
        starts: P_init of each source seed, by its path in the run folder.
    """

    order: tuple[str, ...]
    groups: dict[str, str]
    keys: dict[str, str]
    facts: dict[str, Any]
    starts: dict[str, PromptFile]


class Worker:
    """The loaded model and tasks of a run.

    Args:
        tasks: return value of `read_tasks`.
        store: store of finished stages; None: the one in the settings.
        model: folder to load the model from, if it differs from the settings.
    """

    def __init__(
        self,
        config: RunConfig,
        progress: ProgressReporter,
        tasks: RunTasks,
        *,
        store: Store | None = None,
        model: Path | None = None,
    ) -> None:
        work = Workbench.open(config, progress, tasks, store=store, model=model)
        self.model = work.backbone.identity
        self.store = work.store
        self._model_name, self._backbone = config.model, work.backbone
        self._contexts = [work.context(seed) for seed in config.seeds]
        self._jobs = {job.name: job for job in jobs_of(config, self._contexts)}

    def plan(self) -> RunPlan:
        """All jobs of the run."""
        starts = {
            f"prompts/P_init-seed{ctx.source_seed}.safetensors": PromptFile(ctx.start, card_of(ctx))
            for ctx in self._contexts
        }
        jobs = list(self._jobs.values())
        groups = {job.name: job.group for job in jobs} | dict.fromkeys(shared_jobs(jobs), SOURCES)
        keys = {job.name: job.key for job in jobs}
        facts = {"model": self._model_name, "model_fingerprint": self._backbone.fingerprint}
        return RunPlan(tuple(working_order(jobs)), groups, keys, facts | machine_facts(self._backbone), starts)

    def do(self, job: str, *, wait: bool = True) -> JobOutput:
        """Do a job.

        Raises:
            StageBusy: another worker is computing a stage that the job needs, and `wait` is false. The job's stages so
                far are in the store.
        """
        self.store.waits = wait
        return self._jobs[job].do()


def keep_loaded() -> None:
    """Exclude everything loaded from garbage collection, which runs after every stage and would scan all tasks."""
    gc.collect()
    gc.freeze()
