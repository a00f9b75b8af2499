"""Tests of what runs survive: python -m tools.reliability --help. The results are in docs/reliability.md."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # because children are forked

from prompttransfer.runs.executors import Executor, LocalWorkers
from tools.reliability.kill import kill_at_random
from tools.reliability.workers import kill_workers


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.reliability", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    kill = commands.add_parser("kill", help="kill -9 a run at random moments, and start it again each time")
    workers = commands.add_parser("workers", help="kill -9 random worker processes of a run")
    workers.add_argument("--workers", type=int, default=2)
    workers.add_argument("--ray", action="store_true", help="actors of Ray instead of processes")
    nodes = commands.add_parser("nodes", help="lose nodes of a Ray cluster simulated on this machine")
    for each, times in ((kill, 50), (workers, 12), (nodes, 20)):
        each.add_argument("--times", type=int, default=times, help="total number of kills")
        each.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.command == "kill":
            report = kill_at_random(Path(folder), options.times, options.seed, print)
        elif options.command == "workers":
            executor: Executor = LocalWorkers(options.workers)
            if options.ray:
                from prompttransfer.runs.executors.cluster import Cluster  # needs Ray

                executor = Cluster(workers=options.workers)
            report = kill_workers(Path(folder), executor, options.times, options.seed, print)
        else:
            from tools.reliability.nodes import lose_nodes  # needs Ray

            report = lose_nodes(Path(folder), options.times, options.seed, print)
    print(report.line())


if __name__ == "__main__":
    main()
