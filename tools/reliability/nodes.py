"""Lose nodes of a Ray cluster simulated on this machine, with everything that runs on them, and add them again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import ray
from ray.cluster_utils import Cluster as Nodes

from prompttransfer.runs.executors.cluster import Cluster
from tools.reliability.workers import Report, Watched, disturbed, disturbing


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


@contextmanager
def losing_a_node(nodes: Nodes, watched: Watched, workers: int) -> Iterator[list[float]]:
    """Lose a node once, when so many workers have a job. Yields the moment; another node comes afterwards."""

    def lose() -> bool:
        busy = len(watched.pids()) >= workers
        if busy:
            lose_node(nodes, 0)
        return busy

    try:
        with disturbing(lose, 1, lambda: 0.05) as moments:
            yield moments
    finally:
        complete(nodes)


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
