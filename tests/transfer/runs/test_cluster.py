"""A run on a Ray cluster: the same rows as in one process, despite any losses. Nodes are simulated on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_progress import RecordedProgress
from test_executors import Broken

from prompttransfer import RunConfig, register_method
from prompttransfer.runs.compare import compare
from prompttransfer.runs.executors import JobFailed
from tools.reliability.runs import content, placed, toy_settings
from tools.reliability.workers import Watched, kill_workers

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster as Nodes  # noqa: E402

from prompttransfer.runs.executors.cluster import Cluster  # noqa: E402
from tools.reliability.nodes import lose_nodes, losing_a_node, two_nodes  # noqa: E402

pytestmark = [pytest.mark.distributed, pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return toy_settings(tmp_path_factory.mktemp("toy")).model_copy(update={"seeds": (1, 2)})


@pytest.fixture(scope="module")
def expected(toy: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = content(compare(placed(toy, tmp_path_factory.mktemp("alone"))))
    torch.set_num_threads(threads)
    return alone


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A machine that only drives, and two workers."""
    with two_nodes() as nodes:
        yield nodes


@pytest.mark.nightly
def test_a_driver_that_was_killed_starts_again(toy: RunConfig, expected: dict[str, Any], tmp_path: Path) -> None:
    """Ray is started by the driver, and ends with it. The first test, while there is no other cluster."""
    config = placed(toy, tmp_path)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "prompttransfer", "compare", "--recipe", recipe, "--cluster", "auto", "-q"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    first = subprocess.Popen([*map(str, command)], env=environment, stderr=subprocess.DEVNULL, cwd=tmp_path)
    rows = config.output / "rows"
    while len(list(rows.rglob("*.json"))) < 3:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = {path: path.stat().st_mtime_ns for path in rows.rglob("*.json")}
    assert 3 <= len(kept) < len(expected["rows"]) + 2
    subprocess.run([*map(str, command)], env=environment, check=True, cwd=tmp_path)
    files = content(config.output)
    assert files.pop("report.html", "") is None and files == expected
    assert all(path.stat().st_mtime_ns == changed for path, changed in kept.items()), "finished rows stay"


@pytest.mark.nightly
def test_the_slurm_example(toy: RunConfig, expected: dict[str, Any], tmp_path: Path) -> None:
    """With a Slurm of one node, which is this machine."""
    config = placed(toy, tmp_path)
    (tmp_path / "recipe.json").write_text(config.model_dump_json())
    commands = {"scontrol": "echo 127.0.0.1", "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"'}
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "RECIPE": str(tmp_path / "recipe.json"),
        "OUTPUT": str(config.output),
        "SLURM_JOB_NODELIST": "node1",
        "SLURM_JOB_NUM_NODES": "1",
        "OMP_NUM_THREADS": "1",
    }
    script = Path(__file__).parents[3] / "examples" / "slurm_ray.sh"
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = content(config.output)
    assert files.pop("report.html", "") is None and files == expected


def test_the_rows_are_those_of_one_process_and_nodes_share_no_folder(
    toy: RunConfig, expected: dict[str, Any], nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is a folder that the workers do not see, so they get it from the driver."""
    monkeypatch.setattr("prompttransfer.runs.executors.cluster._is_here", lambda model: False)
    config = placed(toy, tmp_path)
    compare(config, executor=Cluster())
    assert content(config.output) == expected


def test_a_node_is_lost(toy: RunConfig, expected: dict[str, Any], nodes: Nodes, tmp_path: Path) -> None:
    config, progress, watched = placed(toy, tmp_path), RecordedProgress(), Watched(Cluster())
    with losing_a_node(nodes, watched, workers=2) as losses:
        compare(config, progress, watched)
    assert len(losses) == 1
    assert any("was lost" in text and "another worker takes its place" in text for text in progress.warnings)
    assert content(config.output) == expected


@pytest.mark.nightly
def test_a_result_is_lost_before_the_driver_has_it(
    toy: RunConfig, expected: dict[str, Any], nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, lost = ray.get, []

    def get(reference: Any, **options: Any) -> Any:
        value = original(reference, **options)
        if type(value).__name__ == "JobOutput" and len(lost) < 2:
            lost.append(value.row.name)
            raise ray.exceptions.ObjectLostError(reference.hex(), None, "here")
        return value

    monkeypatch.setattr("prompttransfer.runs.executors.cluster.ray.get", get)
    config = placed(toy, tmp_path)
    compare(config, executor=Cluster())
    assert len(lost) == 2 and content(config.output) == expected


@pytest.mark.nightly
def test_a_job_that_fails_by_itself_is_not_tried_again(
    toy: RunConfig, nodes: Nodes, tmp_path: Path, methods_restored: None
) -> None:
    ray.cloudpickle.register_pickle_by_value(sys.modules[Broken.__module__])  # as Ray does with a script
    register_method(Broken)
    config, progress = (
        placed(toy, tmp_path).model_copy(update={"methods": ("Broken",), "sources": ()}),
        RecordedProgress(),
    )
    with pytest.raises(JobFailed, match=r"Broken-goal-seed1 failed on worker \d+ on .*: nothing here"):
        compare(config, progress, Cluster())
    assert progress.warnings == []


@pytest.mark.nightly
def test_workers_are_killed_at_random(tmp_path: Path) -> None:
    assert kill_workers(tmp_path, Cluster(workers=2), times=8, seed=0).kills == 8


@pytest.mark.nightly
def test_nodes_are_lost_at_random(tmp_path: Path) -> None:
    assert lose_nodes(tmp_path, times=20, seed=0).kills == 20
