"""Small runs in forked children, which avoid the cost of imports, and their content for comparisons."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bench.toy import write_model, write_tasks
from prompttransfer import RunConfig
from prompttransfer.files.progress import ProgressReporter, Work
from prompttransfer.runs.compare import compare


def toy_settings(folder: Path) -> RunConfig:
    """A comparison of a few seconds on a model with random weights, with all files below the folder."""
    red, green, goal = write_tasks(folder / "tasks", ["red", "green", "goal"], 40)
    return RunConfig(
        model=str(write_model(folder / "model")),
        sources=[red, green],
        targets=[goal],
        methods=["PT", "SPoT", "MPT", "BMTPT", "DTVG"],
        seeds=[42],
        prompt_length=3,
        train_rows=12,
        test_rows=8,
        source_updates=6,
        target_updates=8,
        batch_size=4,
        source_batch_size=4,
        checkpoint_updates=2,
        precision="float32",
        learning_rate=0.05,
    )


def placed(config: RunConfig, folder: Path) -> RunConfig:
    """The same run with its own output folder and store."""
    return config.model_copy(update={"output": folder / "run", "cache": folder / "cache"})


class Updates(ProgressReporter):
    """Counts the training updates of all processes with the same file, which gets a byte for each."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def stage(self, title: str, total: int) -> Work:
        return _Counted(title, total, self.file)

    @property
    def count(self) -> int:
        return self.file.stat().st_size if self.file.is_file() else 0


class _Counted(Work):
    def __init__(self, title: str, total: int, file: Path) -> None:
        super().__init__(title, total)
        self._handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def advance(self, n: int = 1, **figures: float) -> None:
        super().advance(n, **figures)
        if n == 1:  # not scored rows, and not updates restored from a checkpoint, which come in larger steps
            os.write(self._handle, b".")

    def close(self) -> None:
        os.close(self._handle)


def forked(work: Callable[[], Any]) -> int:
    """Start a child that does some work and exits with 0, or 1 after an error; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def started(config: RunConfig, counter: Updates) -> int:
    """Start a child that runs the comparison."""
    torch.set_num_threads(1)
    return forked(lambda: compare(config, counter))


def ended_well(status: int) -> bool:
    return os.waitstatus_to_exitcode(status) == 0


def content(folder: Path) -> dict[str, Any]:
    """Everything that a run wrote, except for times: files by name, with their tensors, rows and histories."""
    contents: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".safetensors":
            contents[name] = {key: (tensor.shape, tensor.numpy().tobytes()) for key, tensor in load_file(path).items()}
        elif path.parts[-2] == "history":
            contents[name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            contents[name] = None
    contents["rows"] = rows(folder)
    return contents


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of results.json, without times."""
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in content["rows"]]


def unreadable(folder: Path) -> list[str]:
    """Files of a run folder that cannot be read. Unfinished files of a killed process have other names."""
    broken = []
    for path in sorted(folder.rglob("[!.]*")):
        try:
            if path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                load_file(path)
        except Exception as error:  # a reader may raise anything
            broken.append(f"{path}: {error}")
    return broken
