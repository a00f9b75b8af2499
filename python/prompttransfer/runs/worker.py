"""A worker: the loaded model and tasks of a run in one process, and its jobs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from prompttransfer.distributed import processes
from prompttransfer.runs.jobs import TargetJob, card_of, jobs_of, shared_jobs, working_order
from prompttransfer.runs.run_folder import JobOutput, PromptFile, machine_facts
from prompttransfer.runs.workbench import Workbench

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
        model: identity of the model, which is the same for all workers.
    """

    order: tuple[str, ...]
    groups: dict[str, str]
    keys: dict[str, str]
    facts: dict[str, Any]
    starts: dict[str, PromptFile]
    model: dict[str, str] = field(default_factory=dict)


class Worker:
    """Does the jobs of a run."""

    def __init__(self, work: Workbench) -> None:
        self._work = work
        self._contexts = [work.context(seed) for seed in work.config.seeds]
        self._jobs = {job.name: job for job in jobs_of(work.config, self._contexts)}
        # Python collects garbage after every stage, and would scan all tasks.
        gc.collect()
        gc.freeze()

    @cached_property
    def plan(self) -> RunPlan:
        """All jobs of the run."""
        starts = {
            f"prompts/P_init-seed{ctx.source_seed}.safetensors": PromptFile(ctx.start, card_of(ctx))
            for ctx in self._contexts
        }
        jobs = list(self._jobs.values())
        groups = {job.name: job.group for job in jobs if isinstance(job, TargetJob)}
        groups |= dict.fromkeys(shared_jobs(jobs), SOURCES)
        keys = {job.name: job.key for job in jobs}
        backbone = self._work.backbone
        facts = {"model": self._work.config.model, "model_fingerprint": backbone.fingerprint, **machine_facts(backbone)}
        return RunPlan(tuple(working_order(jobs)), groups, keys, facts, starts, backbone.identity)

    def do(self, job: str, *, wait: bool = True) -> JobOutput:
        """Do a job.

        Raises:
            StageBusy: another worker is computing a stage that the job needs, and `wait` is false. The job's stages so
                far are in the store.
        """
        self._work.store.waits = wait
        return self._jobs[job].do()

    def results(self, jobs: Sequence[str]) -> Iterator[tuple[str, JobOutput]]:
        """Do jobs in this process. With several processes of a launcher, all do the jobs of the main one."""
        for job in processes.follow(jobs):
            yield job, self.do(job)
