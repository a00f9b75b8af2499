"""`compare`: run every method on every target and seed, at one target budget, into a run folder.

Every row of the results is a job for an executor. Finished stages come from the store, so an interrupted comparison
resumes where it stopped.
"""

from __future__ import annotations

from collections import deque
from pathlib import Path

from prompttransfer.distributed import processes
from prompttransfer.files.durable import write_json
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.runs.executors import Executor, InProcess
from prompttransfer.runs.run_folder import RunFolder
from prompttransfer.runs.shards import JOBS, Shard
from prompttransfer.settings.run import RunConfig
from prompttransfer.training.loggers import require_logger


def compare(
    config: RunConfig,
    progress: ProgressReporter | None = None,
    executor: Executor | None = None,
    shard: Shard | None = None,
) -> Path:
    """Run the comparison and return its folder: the run folder, or that of a shard.

    With several processes of a launcher, which share every batch, only the main one writes and shows progress.

    Args:
        config: all settings.
        progress: an open `prompttransfer.files.progress.Progress`; None: show nothing.
        executor: executor of the jobs; None: this process.
        shard: part of the jobs to do, see `runs.shards`; None: all.

    Raises:
        ImportError: the logger that report_to names is not installed.
        ValueError: another run is writing to the run folder.
        JobFailed: a job failed on a worker.
    """
    require_logger(config.report_to)
    progress = progress if progress and processes.is_main() else ProgressReporter()
    with (executor or InProcess()).open(config, progress) as session:
        plan = session.plan
        folder, keys = (shard.folder(config.output), shard.jobs(plan)) if shard else (config.output, plan.keys)
        if not processes.is_main():
            deque(session.results(()), maxlen=0)  # the jobs of the main process
            return folder
        with RunFolder(folder, config, plan.facts, keys, progress) as run:
            if shard:
                write_json(folder / JOBS, plan.keys)
            for path, start in plan.starts.items():
                run.save_prompt(path, start)
            left = run.left(job for job in plan.order if job in keys)
            whole = progress.stage("whole run", len(left)) if left else None
            for job, output in session.results(left):
                run.add(job, output)
                if whole:
                    whole.advance()
            if whole:
                whole.close()
            run.collect()
    return folder
