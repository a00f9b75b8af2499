"""The curve of a stage in TensorBoard, Weights & Biases or Trackio, written by the callbacks of transformers.

These expect one training in a process. Here a process trains many stages, so each stage gets a run of its own. It is
named after the stage, grouped with the others of the run folder, and finished when the stage ends.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from transformers import TrainerCallback
from transformers.integrations import (
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    is_tensorboard_available,
    is_trackio_available,
    is_wandb_available,
)

from prompttransfer.distributed import processes
from prompttransfer.files.paths import file_stem
from prompttransfer.tasks.text_metrics.scoring import Lack

_LONGEST_TITLE = 50  # letters at its end, where the method is: that of many targets is too long for a file name


@dataclass(frozen=True)
class LoggedRun:
    """What a stage is called in a logger.

    Attributes:
        logger: a value of the setting `report_to`, other than none.
        group: the run folder's name.
        name: the stage's, which is that of its folder too.
        logs: the folder of all stages' logs.
    """

    logger: str
    group: str
    name: str
    logs: Path

    @classmethod
    def of(cls, logger: str, run_folder: Path, title: str, seed: int, key: str) -> LoggedRun | None:
        """The run of a stage; None where nothing is logged.

        Args:
            key: hash of the stage's key. Two stages may have the same title and seed, but not the same key.
        """
        if logger == "none":
            return None
        name = f"{file_stem(title[-_LONGEST_TITLE:])}-seed{seed}-{key[:6]}"
        return cls(logger, run_folder.absolute().name, name, run_folder / "logs")


@contextmanager
def logging_to(run: LoggedRun | None) -> Iterator[list[TrainerCallback]]:
    """Callbacks that log one stage, which ends with the block. Of several processes, only the main one logs."""
    if run is None or not processes.is_main():
        yield []
        return
    begin, _ = _LOGGERS[run.logger]
    with begin(run) as callback:
        yield [callback]


@contextmanager
def _tensorboard(run: LoggedRun) -> Iterator[TrainerCallback]:
    callback = TensorBoardCallback()
    callback.logging_dir = str(run.logs / run.name)
    try:
        yield callback
    finally:
        callback.on_train_end(None, None, None)  # closes the file of a training that failed, too


@contextmanager
def _wandb(run: LoggedRun) -> Iterator[TrainerCallback]:
    import wandb

    run.logs.mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", "prompttransfer")
    quiet = {"quiet": True}  # it would print a summary for each stage
    opened = wandb.init(project=project, group=run.group, name=run.name, dir=run.logs, settings=quiet)
    failed = 1
    try:
        yield WandbCallback()  # logs to the run that is open
        failed = 0
    finally:
        opened.finish(exit_code=failed)


@contextmanager
def _trackio(run: LoggedRun) -> Iterator[TrainerCallback]:
    import trackio

    with redirect_stdout(sys.stderr):  # where trackio would print between the results
        try:
            yield TrackioCallback()  # begins the run and finishes it
        except BaseException:
            with suppress(RuntimeError):  # there is no run yet
                trackio.finish()
            raise


_LOGGERS = {
    "tensorboard": (_tensorboard, is_tensorboard_available),
    "wandb": (_wandb, is_wandb_available),
    "trackio": (_trackio, is_trackio_available),
}


def missing_logger(logger: str) -> Lack | None:
    """The package that a value of `report_to` needs, where it is not installed."""
    if logger == "none" or _LOGGERS[logger][1]():
        return None
    return Lack(f"report_to {logger!r}: {logger} is not installed", f"pip install {logger}")


def require_logger(logger: str) -> None:
    """Raise ImportError, with the command that installs it, if the logger's package is not here."""
    if lack := missing_logger(logger):
        raise ImportError(str(lack))
