"""Lose nodes of a Ray cluster simulated on this machine, with everything that runs on them, and add them again."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster as Nodes

from prompttransfer.runs.executors.cluster import Cluster
from tools.reliability.workers import Report, Watched, disturbed


@contextmanager
def two_nodes() -> Iterator[Nodes]:
    """A machine that only runs the driver, and two with a core each."""
    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    complete(nodes)
    ray.init(nodes.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


def complete(nodes: Nodes) -> None:
    """Add nodes until there are two. Ray can do this in the main thread only."""
    while len(nodes.worker_nodes) < 2:
        nodes.add_node(num_cpus=1)


def lose_node(nodes: Nodes, place: int) -> None:
    """Kill all processes of a node."""
    nodes.remove_node(list(nodes.worker_nodes)[place], allow_graceful=False)


class NodeKiller:
    """Context that loses a node during a run.

    Args:
        workers: number of workers that must be busy first.
    """

    def __init__(self, nodes: Nodes, workers: int) -> None:
        self.nodes, self.workers, self.losses = nodes, workers, 0
        self._watched: Watched | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._kill)

    def watch(self, executor: Any) -> Watched:
        self._watched = Watched(executor)
        return self._watched

    def __enter__(self) -> NodeKiller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        complete(self.nodes)

    def _kill(self) -> None:
        while not self._over.wait(0.05):
            if self._watched and len(self._watched.pids()) >= self.workers:
                lose_node(self.nodes, 0)
                self.losses += 1
                return


def lose_nodes(folder: Path, times: int, seed: int, say: Callable[[str], None] = lambda text: None) -> Report:
    """Lose one of two nodes at a random moment of each of `times` runs.

    Raises:
        AssertionError: rows are missing or different; the message says which.
    """
    drawn, watched = random.Random(seed), Watched(Cluster())
    with two_nodes() as nodes:

        def lose() -> bool:
            can = bool(watched.pids()) and len(nodes.worker_nodes) == 2
            if can:
                lose_node(nodes, drawn.randrange(2))
            return can

        report = Report("a node was lost")
        delay = partial(drawn.uniform, 0, 5)
        return disturbed(folder, watched, lose, report, times, say, delay, partial(complete, nodes))
