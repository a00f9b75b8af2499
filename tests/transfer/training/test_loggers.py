"""Curves in TensorBoard, wandb and trackio: what they get is what the run keeps, and nothing else changes.

tensorboardX writes real event files. wandb and trackio are stand-ins, which note how they are called.
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from recorded_progress import RecordedProgress
from test_training import plan, soft

from prompttransfer import RunConfig
from prompttransfer.estimate.explanation import explain
from prompttransfer.methods.objectives import task_loss
from prompttransfer.models import Backbone
from prompttransfer.prompts import PromptModule
from prompttransfer.runs.compare import compare
from prompttransfer.runs.executors import LocalWorkers
from prompttransfer.settings.recipes import Recipe
from prompttransfer.training.divergence import Diverged
from prompttransfer.training.loggers import LoggedRun
from prompttransfer.training.trainer import train
from tools.reliability.runs import content, placed, toy_settings

Curves = dict[str, list[tuple[int, float]]]  # loss by update, for each run by its name
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


class StandIn(ModuleType):
    """What transformers and the package call of wandb or trackio. events: the calls, in order."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.events: list[tuple[str, Any]] = []
        self.run: MagicMock | None = None
        self.config, self.define_metric, self.context_vars = MagicMock(), MagicMock(), MagicMock()
        self.context_vars.current_space_id.get.return_value = None

    def init(self, **named: Any) -> MagicMock:
        assert self.run is None, "the stage before is not finished"
        self.run = MagicMock(finish=self.finish)
        self.events.append(("init", named))
        print("hello", file=sys.stdout if self.__name__ == "trackio" else sys.stderr)
        return self.run

    def log(self, figures: dict[str, float]) -> None:
        assert self.run is not None
        self.events.append(("log", figures))

    def finish(self, exit_code: int = 0) -> None:
        if self.run is None:
            raise RuntimeError("no run to finish")
        self.run = None
        self.events.append(("finish", exit_code))

    @property
    def begun(self) -> list[dict[str, Any]]:
        return [named for kind, named in self.events if kind == "init"]

    def curves(self, _: Path) -> Curves:
        assert self.run is None
        losses: Curves = {}
        for kind, what in self.events:
            if kind == "init":
                curve = losses.setdefault(what["name"], [])
            elif kind == "log" and "train/loss" in what:
                curve.append((what["train/global_step"], what["train/loss"]))
        assert len(losses) == len(self.begun)
        return losses


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn(name)
    below = {f"{name}.{inner}": MagicMock() for inner in ("sdk", "sdk.lib", "sdk.lib.config_util")}
    for path, each in {name: module, **below}.items():
        monkeypatch.setitem(sys.modules, path, each)
    return module


def event_files(run_folder: Path) -> Curves:
    """The losses in event files, which are records of length, checksum, content, checksum."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    losses: Curves = {}
    for file in sorted((run_folder / "logs").rglob("events.*")):
        curve, left = losses.setdefault(file.parent.name, []), file.read_bytes()
        while left:
            (length,) = struct.unpack_from("<Q", left)
            event, left = event_pb2.Event.FromString(left[12 : 12 + length]), left[16 + length :]
            curve += [(event.step, value.simple_value) for value in event.summary.value if value.tag == "train/loss"]
    return losses


def reader(logger: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Curves]:
    """How to read what a logger has; for a stand-in, this puts it in place."""
    if logger != "tensorboard":
        return stand_in(logger, monkeypatch).curves
    pytest.importorskip("tensorboardX")
    return event_files


def trained(cache: Path) -> Curves:
    """Losses of the stages that a store has, by what stands at the end of the name of a run."""
    losses = {}
    for folder in (cache / "done").iterdir():
        if json.loads((folder / "key.json").read_text())["stage"] == "train":
            facts = json.loads((folder / "facts.json").read_text())
            losses[folder.name[:6]] = [(update, pytest.approx(loss)) for update, loss in facts["loss"]]
    return losses


@pytest.fixture
def toy(tmp_path: Path) -> RunConfig:
    short = {"source_updates": 3, "target_updates": 4, "test_rows": 4}
    return toy_settings(tmp_path).model_copy(update={"methods": ("SPoT",), "seeds": (7, 8)} | short)


@pytest.mark.parametrize("logger", PACKAGES)
def test_every_stage_is_a_run_with_the_curve_that_is_kept(
    logger: str,
    toy: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    curves = reader(logger, monkeypatch)
    silent, logged = (placed(toy, tmp_path / name) for name in ("silent", "logged"))
    compare(silent)
    assert not (silent.output / "logs").exists()
    compare(logged.model_copy(update={"report_to": logger}))
    assert capsys.readouterr().out == ""  # which is for results

    losses = curves(logged.output)
    assert {name.rpartition("-")[2]: curve for name, curve in losses.items()} == trained(logged.cache)
    stages = [f"goal-{stage}-seed{seed}" for seed in (7, 8) for stage in ("own-prompt", "SPoT")]
    sources = ["source-green-seed7", "source-red-seed7"]
    assert sorted(name.rpartition("-")[0] for name in losses) == sorted([*sources, *stages])
    written = {name: each for name, each in content(logged.output).items() if not name.startswith("logs/")}
    assert written == content(silent.output)


def test_a_stage_of_wandb_is_in_the_group_of_its_run_folder(
    toy: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = stand_in("wandb", monkeypatch)
    config = placed(toy, tmp_path / "mine").model_copy(update={"report_to": "wandb", "methods": ("PT",), "seeds": (7,)})
    monkeypatch.setenv("WANDB_PROJECT", "soft-prompts")
    compare(config)
    (named,) = wandb.begun
    assert (named["project"], named["group"], named["dir"]) == ("soft-prompts", "run", config.output / "logs")
    assert named["name"].startswith("goal-PT-seed7-")


def test_the_setting_changes_no_key(toy: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run takes its stages from the store. They are not trained again, so nothing is logged."""
    wandb = stand_in("wandb", monkeypatch)
    config = placed(toy, tmp_path / "mine").model_copy(update={"methods": ("PT",), "seeds": (7,)})
    before = content(compare(config))
    same, other = config.model_copy(update={"report_to": "wandb"}), tmp_path / "other"
    progress = RecordedProgress()
    assert content(compare(same, progress)) == before
    assert not progress.warnings and not progress.works and "1 of 1 rows are already finished" in progress.notes
    compare(same.model_copy(update={"output": other}))
    assert content(other) == before and not wandb.events


@pytest.mark.parametrize("logger", PACKAGES)
def test_a_training_that_fails_ends_its_run(
    logger: str, llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next stage of the process would be logged to it. The loss that stopped the training is there to be seen."""
    curves = reader(logger, monkeypatch)
    seen = []

    def objective(backbone: Backbone, prompt: PromptModule, batch: dict) -> torch.Tensor:
        seen.append(task_loss(backbone, prompt, batch))
        return seen[-1] * (float("nan") if len(seen) == 5 else 1.0)

    run = LoggedRun.of(logger, tmp_path / "run", "goal: PT", 1, "0123456789")
    with pytest.raises(Diverged):
        train(llama, plan(soft(llama), objective=objective), tmp_path / "work", run=run)
    (curve,) = curves(tmp_path / "run").values()
    assert [update for update, _ in curve] == [1, 2, 3, 4, 5]
    assert [loss for _, loss in curve[:4]] == pytest.approx([loss.item() for loss in seen[:4]])
    assert math.isnan(curve[4][1])
    if logger == "wandb":
        assert sys.modules["wandb"].events[-1] == ("finish", 1)


@pytest.mark.parametrize("logger", PACKAGES)
def test_a_logger_that_is_not_installed_stops_the_run_first(
    logger: str, toy: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PACKAGES[logger]:
        monkeypatch.setitem(sys.modules, package, None)
    config = placed(toy, tmp_path / "mine").model_copy(update={"report_to": logger})
    with pytest.raises(ImportError, match=f"report_to '{logger}': .* pip install {logger}$"):
        compare(config)
    assert not config.output.exists() and not config.cache.exists()
    lacks = explain(config, Recipe("mine", {}), probe_seconds=0.01).missing
    assert [lack.command for lack in lacks] == [f"pip install {logger}"]


def test_only_the_main_process_logs(llama: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = stand_in("wandb", monkeypatch)
    monkeypatch.setattr("prompttransfer.training.loggers.processes.is_main", lambda: False)
    train(llama, plan(soft(llama)), tmp_path / "work", run=LoggedRun.of("wandb", tmp_path, "goal: PT", 1, "0123456789"))
    assert not wandb.events


def test_names_are_short_and_safe(tmp_path: Path) -> None:
    run = LoggedRun.of("tensorboard", tmp_path / "mine", ", ".join(["glue/mnli"] * 30) + ": MPT-group", 3, "0123456789")
    assert run.name == "e-mnli-glue-mnli-glue-mnli-glue-mnli-MPT-group-seed3-012345" and run.group == "mine"
    assert LoggedRun.of("none", tmp_path, "goal: PT", 3, "0123456789") is None


@pytest.mark.distributed
@pytest.mark.slow
def test_worker_processes_log_to_the_run_folder(
    toy: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboardX")
    monkeypatch.chdir(tmp_path)
    config = placed(toy, tmp_path).model_copy(update={"report_to": "tensorboard", "output": Path("mine")})
    compare(config, executor=LocalWorkers(2))
    losses = event_files(tmp_path / "mine")
    assert {name.rpartition("-")[2]: curve for name, curve in losses.items()} == trained(config.cache)
