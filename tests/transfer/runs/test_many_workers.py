"""One run by several commands: --workers, the slurm example, other settings in between."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from prompttransfer import RunConfig, cli
from prompttransfer.files.progress import NullProgress
from prompttransfer.runs.local_workers import local_workers
from prompttransfer.runs.run_folder import RunFolder
from prompttransfer.runs.work_list import WorkList
from tools.reliability.runs import content, placed, rows, toy_settings

SCRIPT = Path(__file__).parents[3] / "examples" / "slurm_array.sh"


@pytest.fixture
def toy(tmp_path: Path) -> RunConfig:
    return toy_settings(tmp_path).model_copy(update={"methods": ("PT", "SPoT"), "seeds": (1, 2)})


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker takes its share of the processors; the tests that follow have them all again."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(before)


def compare(config: RunConfig, *options: str) -> None:
    recipe = config.output.with_suffix(".json")
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(config.model_dump_json())
    done = CliRunner().invoke(cli.app, ["compare", "--recipe", str(recipe), "-q", *options])
    assert done.exit_code == 0, done.output


@pytest.mark.distributed
@pytest.mark.slow
def test_workers_of_this_machine_and_of_an_array_make_what_one_process_makes(toy: RunConfig, tmp_path: Path) -> None:
    compare(placed(toy, tmp_path / "alone"))
    expected = rows(tmp_path / "alone" / "run")
    assert len(expected) == 4
    compare(placed(toy, tmp_path / "two"), "--workers", "2")
    assert rows(tmp_path / "two" / "run") == expected
    assert content(tmp_path / "two" / "run") == content(tmp_path / "alone" / "run")
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    array = tmp_path / "array"
    environment = {
        **os.environ,
        "PYTHON": sys.executable,
        "RECIPE": str(tmp_path / "alone" / "run.json"),
        "OUTPUT": str(array / "run"),
        "PROMPTTRANSFER_CACHE": str(array / "cache"),
        "SLURM_CPUS_PER_TASK": "1",
    }
    jobs = [subprocess.Popen([SCRIPT], env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for job in jobs:
        _, said = job.communicate()
        assert job.returncode == 0, said
    assert rows(array / "run") == expected


def test_a_worker_that_fails_is_told_of(toy: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    progress = NullProgress()
    monkeypatch.setattr(progress, "warn", notes.append)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with local_workers(toy, 2, progress):
        pass
    assert notes == ["worker 2 ended with code 1: "]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="workers: got 2 in one of 2 processes"), local_workers(toy, 2, progress):
        pass


class Silent:
    """As little of a backbone as a run folder asks for."""

    fingerprint, seq2seq, placement, precision = "f" * 16, False, "encoder", "float32"
    device = torch.device("cpu")


def test_other_settings_are_refused_while_others_are_at_work(toy: RunConfig, tmp_path: Path) -> None:
    config = placed(toy, tmp_path / "x")
    (config.output / "claims").mkdir(parents=True)
    (config.output / "config.json").write_text(config.model_dump_json())
    other = config.model_copy(update={"learning_rate": 0.5})
    with WorkList(config.output / "claims", "another key") as at_work:
        run = RunFolder(other, Silent(), NullProgress(), {"PT-goal-seed1": "k"})
        with pytest.raises(ValueError, match=r"at work there with other settings: learning_rate 0.05 there, 0.5 here"):
            run.__enter__()
        same = RunFolder(config, Silent(), NullProgress(), {"PT-goal-seed1": "k"})
        with pytest.raises(ValueError, match="the same settings, but other data, another model or precision"):
            same.__enter__()
        assert at_work.others() == [], "who was refused is gone"
    assert (config.output / "config.json").read_text() == config.model_dump_json()
    assert not config.output.with_name("run-1").exists()


def test_what_a_killed_worker_was_writing_goes_with_the_last_one(toy: RunConfig, tmp_path: Path) -> None:
    config = placed(toy, tmp_path / "x")
    with RunFolder(config, Silent(), NullProgress(), {"PT-goal-seed1": "k"}):
        half = config.output / "prompts" / "sources" / ".red-seed42.safetensors.l0qj4aq3.tmp"
        half.parent.mkdir(parents=True)
        half.touch()
    assert not half.exists() and (config.output / "config.json").exists()
