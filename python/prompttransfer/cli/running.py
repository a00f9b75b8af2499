"""Shared by `compare` and `train`: a run from its settings to its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from prompttransfer.cli.command import Result
from prompttransfer.distributed import processes
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.texts import show
from prompttransfer.settings.run import RunConfig

if TYPE_CHECKING:
    from prompttransfer.report import Results


def run(
    config: RunConfig,
    progress: ProgressReporter,
    workers: int | None = None,
    cluster: str | None = None,
    shard: str | None = None,
) -> Results:
    """Run the comparison, write the report, and return the results. With several processes, only the main one returns.

    Args:
        workers: number of worker processes; None: this process, or as many as the cluster allows.
        cluster: address of a Ray cluster, or "auto".
        shard: the part of the jobs to do, such as "2/8".
    """
    with progress:
        progress.note("loading libraries")
        from prompttransfer.models.loading import read_configuration
        from prompttransfer.report import read_results, write_report
        from prompttransfer.runs.compare import compare
        from prompttransfer.runs.executors import Executor, InProcess, LocalWorkers
        from prompttransfer.runs.shards import Shard
        from prompttransfer.tasks import check_name

        # Before anything is downloaded.
        part = Shard.parse(shard) if shard else None
        for name in (*config.sources, *config.targets):
            check_name(name)
        if config.model != "demo":
            read_configuration(config.model)
        executor: Executor = InProcess()
        if cluster is not None:
            from prompttransfer.runs.executors.cluster import Cluster

            executor = Cluster(cluster, workers)
        elif workers is not None and workers > 1:
            executor = LocalWorkers(workers)
        folder = compare(config, progress, executor, part)
        processes.finish()
        if not processes.is_main():
            raise typer.Exit
        write_report(folder)
    return read_results(folder)


def result_of(results: Results, *lines: str) -> Result:
    """The results as tables, followed by the path of the report and further lines."""

    def display() -> None:
        from prompttransfer.cli.tables import wide_console
        from prompttransfer.report.terminal import print_results

        print_results(results, wide_console())
        show("\n".join([f"report: {results.folder / 'report.html'}", f"all files: {results.folder}", *lines]))

    return Result(results.content, display)
