"""The folder of a run: finished rows, and the results collected from them.

Every finished row is a file, written after all its other files. It contains their hashes and the hash of everything it
was computed from, so a row is complete or absent after a crash. A row that is damaged, or was computed from other data,
is computed again.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from prompttransfer.distributed import processes
from prompttransfer.files.durable import (
    TEMPORARY,
    check_hash,
    file_hash,
    read_record,
    write_csv,
    write_json,
    write_record,
)
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.interchange import Card, Factors, write_prompt, write_tensors
from prompttransfer.models import Backbone
from prompttransfer.runs.rows import FORMAT, SourceRow, TargetRow, csv_rows, read_row
from prompttransfer.settings.run import WITHOUT_EFFECT, RunConfig
from prompttransfer.tasks.scales import scale_of
from prompttransfer.training.history import History

_COLLECTING = 20  # wait this many times the duration of the last collection before the next one


@dataclass(frozen=True)
class PromptFile:
    """A prompt (L, H), or the named tensors of a prompt that depends on the row, with its card."""

    content: Tensor | Mapping[str, Tensor]
    card: Card
    factors: Factors | None = None


@dataclass(frozen=True)
class JobOutput:
    """Output of a job: a row, and its files by their path in the run folder."""

    row: TargetRow | SourceRow
    prompts: dict[str, PromptFile]
    histories: dict[str, History] = field(default_factory=dict)


class RunFolder:
    """config.json, rows/, prompts/, history/, results.json and results.csv of a run. One run at a time may write to it.

    Args:
        folder: folder of the run.
        facts: content of results.json in addition to the rows.
        keys: the jobs, in the order of the results, each with the hash of everything it is computed from.

    Raises:
        ValueError: on entering, if another run is writing to the folder.
    """

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        facts: Mapping[str, Any],
        keys: Mapping[str, str],
        progress: ProgressReporter,
    ) -> None:
        self.folder = folder
        self._settings = config.model_dump(mode="json")
        self._facts = facts
        self._keys = keys
        self._progress = progress
        self._rows: dict[str, TargetRow | SourceRow] = {}
        self._lock = FileLock(folder / ".lock")
        self._next_collection = 0.0

    def __enter__(self) -> RunFolder:
        self._take_lock()
        try:
            self._remove_leftovers()
            if self._has_other_settings():
                self._move_aside()
            write_json(self.folder / "config.json", self._settings)
            finished = sum(map(self._read, self._keys))
            if finished:
                self._progress.note(f"{finished} of {len(self._keys)} rows are already finished")
            self.collect()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def _take_lock(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(
                f"another run is writing to {self.folder}; wait until it ends, or give this run another --output"
            ) from None

    def left(self, order: Iterable[str]) -> list[str]:
        """The jobs without a finished row."""
        return [job for job in order if job not in self._rows]

    def add(self, job: str, output: JobOutput) -> None:
        """Write the output of a job. Its row comes last and marks the job as done."""
        for path, file in output.prompts.items():
            self.save_prompt(path, file)
        for path, history in output.histories.items():
            write_json(self.folder / path, history)
        files = {path: file_hash(self.folder / path) for path in (*output.prompts, *output.histories)}
        write_record(self._path(job), {"job": job, "key": self._keys[job], "row": output.row.facts(), "files": files})
        self._rows[job] = output.row
        score = f"{output.row.metric} {scale_of(output.row.metric).text(output.row.score)}"
        self._progress.note(f"row {len(self._rows)} of {len(self._keys)}: {job}, {score}")
        if time.monotonic() >= self._next_collection:
            self.collect()

    def take(self, other: Path) -> None:
        """Copy finished rows and their files from another folder of this run."""

        def copy(path: Path) -> None:
            place = self.folder / path.relative_to(other)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)

        for start in other.glob("prompts/P_init-*"):
            copy(start)
        for job in self.left(self._keys):
            row = other / self._path(job).relative_to(self.folder)
            if row.is_file():
                for name in read_record(row)["files"]:
                    copy(other / name)
                copy(row)
                self._read(job)

    def collect(self) -> None:
        """Write results.json and results.csv from the finished rows."""
        began = time.monotonic()
        rows = [self._rows[job] for job in self._keys if job in self._rows]
        targets = [row for row in rows if isinstance(row, TargetRow)]
        results = {
            "format": FORMAT,
            **self._facts,
            "settings": self._settings,
            "sources": [row.facts() for row in rows if isinstance(row, SourceRow)],
            "rows": [row.facts() for row in targets],
            "finished": len(rows) == len(self._keys),
        }
        write_json(self.folder / "results.json", results)
        write_csv(self.folder / "results.csv", csv_rows(targets))
        # Every row already has a file. Collecting all after each new one would take quadratic time.
        now = time.monotonic()
        self._next_collection = now + _COLLECTING * (now - began)

    def save_prompt(self, path: str, file: PromptFile) -> None:
        """Write a prompt to a path of the folder."""
        if isinstance(file.content, Tensor):
            write_prompt(self.folder / path, file.content, file.card.metadata(), file.factors)
        else:
            write_tensors(self.folder / path, file.content, file.card.metadata())

    def _path(self, job: str) -> Path:
        return self.folder / "rows" / f"{job}.json"

    def _read(self, job: str) -> bool:
        """Load a job's row; False unless it is undamaged, computed from the same data, and has its files."""
        try:
            record = read_record(self._path(job))
            if record["key"] != self._keys[job]:
                return False
            for name, digest in record["files"].items():
                check_hash(self.folder / name, digest)
            self._rows[job] = read_row(record["row"], self._path(job))
        except FileNotFoundError:
            return False
        except ValueError as error:  # damaged, or not a row
            self._progress.warn(f"{job}: computing it again ({error})")
            return False
        return True

    def _remove_leftovers(self) -> None:
        """Delete files that a killed run left half-written. No other run writes here, but shards may write below."""
        inside = (self.folder / place for place in ("rows", "prompts", "history"))
        half = f".*{TEMPORARY}"
        for path in (*self.folder.glob(half), *(path for place in inside for path in place.rglob(half))):
            path.unlink(missing_ok=True)

    def _has_other_settings(self) -> bool:
        """Whether the folder has results of other settings."""
        try:
            before = json.loads((self.folder / "config.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return False
        if not isinstance(before, dict):
            return False
        names = (before.keys() | self._settings.keys()) - set(WITHOUT_EFFECT)
        return any(before.get(name) != self._settings.get(name) for name in names)

    def _move_aside(self) -> None:
        """Rename the folder if it has results of other settings, so that runs are neither mixed nor lost."""
        free = next(n for n in count(1) if not self.folder.with_name(f"{self.folder.name}-{n}").exists())
        aside = self.folder.with_name(f"{self.folder.name}-{free}")
        self.folder.rename(aside)
        self._lock.release()
        self._take_lock()
        self._progress.warn(f"{self.folder} has results of other settings: moved them to {aside}")


def machine_facts(backbone: Backbone) -> dict[str, Any]:
    """Commit, machine and versions, for results.json."""
    packages = ("torch", "transformers", "datasets", "accelerate", "safetensors")
    device = backbone.device
    return {
        "commit": _commit(),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": processes.count(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "precision": backbone.precision,
        },
        "versions": {name: version(name) for name in packages},
    }


def _commit() -> str:
    """Commit of the checkout that contains this file; empty for an installed package."""
    file = Path(__file__).resolve()
    command = ["git", "rev-parse", "HEAD", f"HEAD:./{file.name}"]  # fails unless git tracks the file
    try:
        done = subprocess.run(command, cwd=file.parent, capture_output=True, text=True)
        return "" if done.returncode else done.stdout.split()[0]
    except OSError:
        return ""
