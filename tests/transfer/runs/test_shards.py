"""A run in parts, each in its own folder. Joined, they equal the run of one process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from recorded_progress import RecordedProgress

from prompttransfer import RunConfig
from prompttransfer.runs.compare import compare
from prompttransfer.runs.shards import JOBS, Shard, collect
from prompttransfer.runs.worker import SOURCES, RunPlan
from tools.reliability.runs import content, placed, toy_settings

SCRIPT = Path(__file__).parents[3] / "examples" / "slurm_shards.sh"

# Runs what it is given, in place of the queue: `sbatch [--array=1-N] --wrap=COMMAND`.
SBATCH = """#!/usr/bin/env bash
first=1 last=1
for option in "$@"; do
  case $option in
    --array=*) range=${option#--array=}; first=${range%-*}; last=${range#*-};;
    --wrap=*) command=${option#--wrap=};;
  esac
done
for SLURM_ARRAY_TASK_ID in $(seq "$first" "$last"); do
  export SLURM_ARRAY_TASK_ID
  bash -ec "$command" >&2
done
echo 17
"""


@pytest.fixture
def toy(tmp_path: Path) -> RunConfig:
    return toy_settings(tmp_path).model_copy(update={"seeds": (1, 2, 3), "methods": ("PT", "SPoT")})


def in_parts(config: RunConfig, *parts: str) -> None:
    for part in parts:
        compare(config, shard=Shard.parse(part))


def test_shards_joined_are_the_run_of_one_process(toy: RunConfig, tmp_path: Path) -> None:
    alone, parts = placed(toy, tmp_path / "alone"), placed(toy, tmp_path / "parts")
    compare(alone)
    progress = RecordedProgress()
    in_parts(parts, "sources", "2/2")
    collect(parts.output, progress)
    assert progress.warnings == ["shards that have not started: 1 of 2"]
    in_parts(parts, "1/2")
    progress = RecordedProgress()
    collect(parts.output, progress)
    assert progress.warnings == []
    joined = {name: value for name, value in content(parts.output).items() if not name.startswith("shards/")}
    assert joined == content(alone.output)
    again = RecordedProgress()
    compare(parts, again)
    assert "8 of 8 rows are already finished" in again.notes and again.works == []


def test_methods_on_a_target_and_seed_stay_together() -> None:
    names = [f"{method}-{seed}" for seed in range(5) for method in ("PT", "MPT")]
    groups = {name: name.rpartition("-")[2] for name in names} | {"red": SOURCES, "MPT-0": SOURCES}
    plan = RunPlan(("red", "MPT-0", *names), groups, dict.fromkeys(["red", *names], "k"), {}, {})
    parts = [set(Shard(number, 2).jobs(plan)) for number in (1, 2)]
    assert parts == [{"PT-0", "PT-2", "MPT-2", "PT-4", "MPT-4"}, {"PT-1", "MPT-1", "PT-3", "MPT-3"}]
    assert set(Shard.parse("sources").jobs(plan)) == {"red", "MPT-0"}


@pytest.mark.parametrize("text", ["3/2", "0/2", "1", "1/2/3", "-1/2", "source"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"want `sources` or a part such as 2/8"):
        Shard.parse(text)


def test_shards_of_different_runs_are_not_joined(toy: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no shards; want the --output of `prompttransfer compare --shard`"):
        collect(tmp_path)
    config = placed(toy, tmp_path / "x")
    in_parts(config, "1/3")
    in_parts(config.model_copy(update={"learning_rate": 0.01}), "2/3")
    with pytest.raises(ValueError, match=r"2-of-3 and .*1-of-3 belong to different runs: their settings, data"):
        collect(config.output)
    shutil.rmtree(config.output / "shards" / "2-of-3")
    in_parts(config, "1/2")
    with pytest.raises(ValueError, match="got shards of 2 and 3; want shards of one division"):
        collect(config.output)
    assert not (config.output / JOBS).exists() and not (config.output / "results.json").exists()


@pytest.mark.nightly
def test_the_slurm_example(toy: RunConfig, tmp_path: Path) -> None:
    alone = placed(toy, tmp_path / "alone")
    compare(alone)
    (tmp_path / "recipe.json").write_text(alone.model_dump_json())
    queue = tmp_path / "bin" / "sbatch"
    queue.parent.mkdir()
    queue.write_text(SBATCH)
    queue.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{queue.parent}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "RECIPE": str(tmp_path / "recipe.json"),
        "OUTPUT": str(tmp_path / "grid"),
        "PROMPTTRANSFER_CACHE": str(tmp_path / "cache"),
        "PARTS": "2",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(["bash", SCRIPT], env=environment, check=True, capture_output=True)
    joined = content(tmp_path / "grid")
    assert {name for name in joined if name not in content(alone.output) and not name.startswith("shards/")} == {
        "report.html"
    }
    assert joined["rows"] == content(alone.output)["rows"]
