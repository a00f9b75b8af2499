"""`compare`: every method on every target and seed, at one target budget, into a run folder.

The rows are jobs that any number of processes share (`runs.work_list`). Finished stages come from the store,
so a comparison that was interrupted goes on where it was, whoever goes on with it.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from prompttransfer.distributed import processes
from prompttransfer.files.progress import NullProgress, ProgressReporter
from prompttransfer.runs.jobs import PromptFile, card_of, jobs_of, working_order
from prompttransfer.runs.run_folder import RunFolder
from prompttransfer.runs.workbench import Workbench
from prompttransfer.settings.run import RunConfig


def compare(config: RunConfig, progress: ProgressReporter | None = None) -> Path:
    """Run the comparison and return the run folder.

    Started several times at once, the runs share the rows. Of the several processes of a launcher, which share every
    batch, the main one takes part in that, writes and tells.

    Args:
        config: all settings.
        progress: an open `prompttransfer.files.progress.Progress`; none: nothing is shown.

    Raises:
        ValueError: others are at work in the run folder with other settings or data.
    """
    progress = progress if progress and processes.is_main() else NullProgress()
    work = Workbench.open(config, progress)
    contexts = [work.context(seed) for seed in config.seeds]
    jobs = {job.name: job for job in jobs_of(config, contexts)}
    keys = {name: job.key for name, job in jobs.items()}
    with (
        _tasks_never_garbage(),
        RunFolder(config, work.backbone, progress, keys) if processes.is_main() else nullcontext() as run,
    ):
        if run:
            for ctx in contexts:
                path = f"prompts/P_init-seed{ctx.source_seed}.safetensors"
                run.save_prompt(path, PromptFile(ctx.start, card_of(ctx)))
        for name in processes.follow(run.jobs(working_order(jobs.values())) if run else ()):
            made = jobs[name].do()
            if run:
                run.add(name, made)
        if run:
            run.collect()
    return config.output


@contextmanager
def _tasks_never_garbage() -> Iterator[None]:
    """What is loaded stays: every stage ends with a garbage collection, which need not look through all tasks again."""
    others_freeze = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not others_freeze:
            gc.unfreeze()
