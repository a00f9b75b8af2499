"""Faults of a machine during a command: the message, no partial files, and a second start that works."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults import Disk, failing_disk, files, flip, truncate
from typer.testing import CliRunner

from prompttransfer import RunConfig, cli
from prompttransfer.interchange import read_prompt
from prompttransfer.training import trainer as training
from tools.reliability.runs import content, placed, toy_settings, unreadable

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    return toy_settings(tmp_path_factory.mktemp("toy")).model_copy(update={"methods": ("PT", "SPoT")})


@pytest.fixture(scope="module")
def whole(toy: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run and the store of an uninterrupted start; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prompttransfer.tasks.rendered.rendered_folder", lambda: folder / "tasks")
        assert compare(toy, folder).exit_code == 0
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rendered rows are next to the store of the run."""
    monkeypatch.setattr("prompttransfer.tasks.rendered.rendered_folder", lambda: tmp_path / "tasks")
    return tmp_path / "cache"


def compare(config: RunConfig, folder: Path) -> Any:
    recipe = folder / "recipe.json"
    recipe.parent.mkdir(exist_ok=True)
    recipe.write_text(placed(config, folder).model_dump_json())
    return CliRunner().invoke(cli.app, ["compare", "--config", str(recipe), "-q"])


def result(folder: Path) -> dict[str, Any]:
    """All that the run left; the page is written from it, with the folder's name in it."""
    return {name: value for name, value in content(folder / "run").items() if name != "report.html"}


def refused(done: Any, message: str, lines: int = 1) -> None:
    assert (done.exit_code, done.stdout) == (1, ""), done.output
    assert message in done.stderr and done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) <= lines and "Traceback" not in done.stderr and "--debug" not in done.stderr


def nothing_half_written(folder: Path) -> None:
    assert not unreadable(folder / "run")
    assert not list(folder.rglob(".*.tmp")) and not list(folder.rglob("*.claim")) and not list(folder.rglob("*.worker"))


FULL, READ_ONLY = (errno.ENOSPC, "No space left on device; free some space"), (errno.EROFS, "Read-only file system")


@pytest.mark.parametrize(
    ("passing", "code", "message"),
    [
        (0, *READ_ONLY),
        (0, *FULL),
        (40, *FULL),
        *(pytest.param(passing, *FULL, marks=pytest.mark.slow) for passing in (110, 190, 270)),
    ],
)
def test_a_disk_that_refuses_from_some_write_on(
    toy: RunConfig, whole: Path, tmp_path: Path, cache: Path, passing: int, code: int, message: str
) -> None:
    with failing_disk(Disk(passing, code)) as disk:
        done = compare(toy, tmp_path)
    assert disk.writes > disk.passing, "the run made fewer writes"
    refused(done, message)
    assert not list((tmp_path / "run").rglob(".*.tmp")) and not unreadable(tmp_path / "run")
    assert compare(toy, tmp_path).exit_code == 0
    assert result(tmp_path) == result(whole)
    nothing_half_written(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate disk of 2 MB, if mounting is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 120_000])
def test_a_real_disk_that_is_full(
    toy: RunConfig, whole: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    monkeypatch.setattr("prompttransfer.tasks.rendered.rendered_folder", lambda: whole / "tasks")
    folder, ballast = small_disk / "here", small_disk / "ballast"
    folder.mkdir()
    (folder / "recipe.json").write_bytes(b" " * 4096)  # is written before the disk is full
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - free))
    refused(compare(toy, folder), "No space left on device; free some space")
    assert not unreadable(folder / "run")
    ballast.unlink()
    assert compare(toy, folder).exit_code == 0
    assert result(folder) == result(whole)


def test_a_real_folder_that_is_read_only(
    toy: RunConfig, whole: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prompttransfer.tasks.rendered.rendered_folder", lambda: whole / "tasks")
    folder = small_disk / "here"
    folder.mkdir()
    (folder / "recipe.json").write_text(placed(toy, folder).model_dump_json())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = CliRunner().invoke(cli.app, ["compare", "--config", str(folder / "recipe.json"), "-q"])
    refused(done, "Read-only file system; use another folder: --output")


def test_out_of_memory_names_what_to_lower(
    toy: RunConfig, whole: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    original = training.PromptTrainer.training_step

    def step(*arguments: Any, **named: Any) -> Any:
        steps.append(1)
        if len(steps) == 17:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")
        return original(*arguments, **named)

    monkeypatch.setattr(training.PromptTrainer, "training_step", step)
    done = compare(toy, tmp_path)
    refused(done, "error: out of memory: ", lines=2)
    assert all(name in done.stderr for name in ("--batch-size", "--max-length", "checkpointing", "bmtpt.particles"))
    nothing_half_written(tmp_path)
    assert compare(toy, tmp_path).exit_code == 0
    assert result(tmp_path) == result(whole)
    assert len(steps) - 1 <= 2 * 6 + 2 * 8 + 4 + toy.checkpoint_updates  # sources, PT, SPoT; and what was lost


def test_a_loss_that_is_not_finite_names_the_last_good_prompt(toy: RunConfig, tmp_path: Path, cache: Path) -> None:
    done = compare(toy.model_copy(update={"learning_rate": 1e37, "max_grad_norm": 0.0}), tmp_path)
    refused(done, "lower the learning rate (now 1e+37)", lines=2)
    file = Path(done.stderr.rpartition(": ")[2].strip())
    prompt, _ = read_prompt(file)
    assert prompt.shape == (3, 32)  # and finite, or it would be no prompt file
    nothing_half_written(tmp_path)
    assert compare(toy, tmp_path).exit_code == 0


@pytest.mark.parametrize("damage", [flip, truncate])
@pytest.mark.parametrize("where", ["run", "cache"])
def test_what_is_damaged_is_made_again(
    toy: RunConfig, whole: Path, tmp_path: Path, cache: Path, where: str, damage: Callable[[Path], None]
) -> None:
    """Every file there is: rows, results, settings, prompts, finished stages, rendered rows."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    expected = result(tmp_path)
    if where == "cache":
        shutil.rmtree(tmp_path / "run")
    victims = {"run": ["run"], "cache": ["cache/done", "tasks"]}[where]
    damaged = [path for name in victims for path in files(tmp_path / name)]
    assert len(damaged) > 10
    for path in damaged:
        damage(path)
    done = compare(toy, tmp_path)
    assert done.exit_code == 0, done.output
    assert result(tmp_path) == expected
    for path in files(tmp_path / "run"):
        assert path.suffix != ".json" or json.loads(path.read_text())


@pytest.mark.parametrize("damage", [flip, truncate])
def test_a_damaged_prompt_file_is_refused(whole: Path, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    file = tmp_path / "mine.safetensors"
    shutil.copy(whole / "run" / "prompts" / "PT" / "goal-seed42.safetensors", file)
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # of a number of the prompt
    file.write_bytes(content)
    if damage is truncate:
        truncate(file)
    done = CliRunner().invoke(cli.app, ["export", str(file), str(tmp_path / "adapter")])
    assert done.exit_code == 2 and done.stderr.startswith(f"error: {file}: ")
    assert ("damaged" if damage is flip else "not a readable safetensors file, or truncated") in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "adapter").exists()


@pytest.mark.slow
def test_killed_processes_lose_nothing() -> None:
    """In a separate process, because it forks, which a process with threads should not do."""
    command = [sys.executable, "-m", "tools.reliability", "kill", "--times", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 kills in " in done.stdout.splitlines()[-1]
