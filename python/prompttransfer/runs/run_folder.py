"""The folder of a run: what its workers agree on, what they have finished, and the results collected from it.

A finished row is a file of its own, written last, with the hashes of the files that belong to it and with the hash of
everything it was computed from. So a row is there or not, whoever was killed when; one that is damaged, or that was
made from other data, is made again. results.json and results.csv are collected from these files by any worker at any
time.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from prompttransfer.distributed import processes
from prompttransfer.files.durable import (
    check_hash,
    file_hash,
    read_record,
    remove_leftovers,
    write_csv,
    write_json,
    write_record,
)
from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.store import key_hash
from prompttransfer.interchange import Card, Factors, write_prompt, write_tensors
from prompttransfer.models import Backbone
from prompttransfer.runs.rows import SourceRow, TargetRow, csv_rows, read_row
from prompttransfer.runs.work_list import WorkList
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks.scales import scale_of
from prompttransfer.training.history import History

FORMAT = 1
PLACES = ("output", "cache", "shard_model")  # settings that may differ between the workers of a run
_ASIDE = ".aside"


@dataclass(frozen=True)
class PromptFile:
    """A prompt (L, H), or the named tensors of one that depends on the row, with its card."""

    content: Tensor | Mapping[str, Tensor]
    card: Card
    factors: Factors | None = None


@dataclass(frozen=True)
class Made:
    """What a job leaves: a row, and the files of the run folder that belong to it, by their path there."""

    row: TargetRow | SourceRow
    prompts: dict[str, PromptFile]
    histories: dict[str, History] = field(default_factory=dict)


class RunFolder:
    """config.json, rows/, prompts/, history/, results.json and results.csv of a run; use as a context, one per run.

    Args:
        jobs: what is to be done, in the order of the results, each with the hash of what it is computed from.

    Raises:
        ValueError: on entering, when others are at work there with other settings, data or another model.
    """

    def __init__(
        self, config: RunConfig, backbone: Backbone, progress: ProgressReporter, jobs: Mapping[str, str]
    ) -> None:
        self.folder = config.output
        self._settings = config.model_dump(mode="json")
        self._progress = progress
        self._keys = jobs
        self._found: dict[str, TargetRow | SourceRow] = {}
        self._work = WorkList(self.folder / "claims", key_hash(dict(jobs)), progress.note, last=self._clear)
        self._model = {"model": config.model, "model_fingerprint": backbone.fingerprint}
        self._backbone = backbone

    def __enter__(self) -> RunFolder:
        self._work.__enter__()
        try:
            self._agree()
            there = sum(map(self._done, self._keys))
            if there:
                self._progress.note(f"{there} of {len(self._keys)} rows are there already")
            self.collect()
        except BaseException as error:
            self._work.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._work.__exit__(kind, error, trace)

    def jobs(self, order: Iterable[str]) -> Iterator[str]:
        """The jobs that are for this worker to do, until all are done by someone; see `WorkList.jobs`.

        Args:
            order: all of them, as they are to be done.
        """
        return self._work.jobs(order, self._done)

    def add(self, job: str, made: Made) -> None:
        """Write what a job left, its row last: from then on it is done."""
        for path, file in made.prompts.items():
            self.save_prompt(path, file)
        for path, history in made.histories.items():
            write_json(self.folder / path, history)
        files = {path: file_hash(self.folder / path) for path in (*made.prompts, *made.histories)}
        write_record(self._path(job), {"job": job, "key": self._keys[job], "row": made.row.facts(), "files": files})
        self._found[job] = made.row
        self.collect()
        score = f"{made.row.metric} {scale_of(made.row.metric).text(made.row.score)}"
        self._progress.note(f"row {len(self._found)} of {len(self._keys)}: {job}, {score}")

    def collect(self) -> None:
        """Write results.json and results.csv from the rows that are there."""
        rows_folder = self.folder / "rows"
        there = {path.relative_to(rows_folder).as_posix()[: -len(".json")] for path in rows_folder.rglob("*.json")}
        found = [self._found[job] for job in self._keys if job in there and self._done(job)]
        rows = [row for row in found if isinstance(row, TargetRow)]
        results = {
            "format": FORMAT,
            **self._model,
            **self._machine,
            "settings": self._settings,
            "sources": [row.facts() for row in found if isinstance(row, SourceRow)],
            "rows": [row.facts() for row in rows],
            "finished": len(found) == len(self._keys),
        }
        write_json(self.folder / "results.json", results)
        write_csv(self.folder / "results.csv", csv_rows(rows))

    def save_prompt(self, path: str, file: PromptFile) -> None:
        """Write a prompt to a path of the folder."""
        if isinstance(file.content, Tensor):
            write_prompt(self.folder / path, file.content, file.card.metadata(), file.factors)
        else:
            write_tensors(self.folder / path, file.content, file.card.metadata())

    @cached_property
    def _machine(self) -> dict[str, Any]:
        return machine_facts(self._backbone)

    def _path(self, job: str) -> Path:
        return self.folder / "rows" / f"{job}.json"

    def _done(self, job: str) -> bool:
        """Whether a job's row is there, as it was written and from the same data, with its files."""
        if job in self._found:
            return True
        try:
            record = read_record(self._path(job))
            if record["key"] != self._keys[job]:
                return False
            for name, digest in record["files"].items():
                check_hash(self.folder / name, digest)
            self._found[job] = read_row(record["row"], self._path(job))
        except FileNotFoundError:
            return False
        except ValueError as error:  # damaged, or not a row
            self._progress.warn(f"{job}: made again ({error})")
            return False
        return True

    def _agree(self) -> None:
        """One set of settings in one folder: joins those at work, moves results of other settings aside."""
        with self._work.door():
            others = self._work.others()
            if any(other.key != self._work.me.key for other in others):
                raise ValueError(
                    f"{self.folder}: {', '.join(map(str, others))} at work there with {self._difference()}; wait for "
                    "the end, or give this run an --output of its own"
                )
            if not others:
                self._clear()
            if self._other_settings():
                self._move_aside()
            write_json(self.folder / "config.json", self._settings)

    def _clear(self) -> None:
        """Delete what killed workers were writing."""
        remove_leftovers(self.folder)

    def _before(self) -> dict[str, Any] | None:
        """The settings in the folder; None: none that can be read."""
        try:
            content = json.loads((self.folder / "config.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def _other_settings(self) -> list[str]:
        """Names of the settings in the folder that are not those of this run."""
        before = self._before() or self._settings
        names = before.keys() | self._settings.keys()
        return [name for name in sorted(names) if name not in PLACES and before.get(name) != self._settings.get(name)]

    def _difference(self) -> str:
        names = self._other_settings()
        if not names:
            return "the same settings, but other data, another model or precision"
        before = self._before() or {}
        told = [f"{name} {before.get(name)} there, {self._settings.get(name)} here" for name in names[:3]]
        return "other settings: " + "; ".join(told)

    def _move_aside(self) -> None:
        """Results of other settings move out, so that no folder mixes two runs and none is lost."""
        free = next(n for n in count(1) if not self.folder.with_name(f"{self.folder.name}-{n}").exists())
        aside, inside = self.folder.with_name(f"{self.folder.name}-{free}"), self.folder / _ASIDE
        inside.mkdir(exist_ok=True)
        names = [path.name for path in self.folder.iterdir() if path.name not in (self._work.folder.name, _ASIDE)]
        for name in sorted(names, key=lambda name: name == "config.json"):  # last: until then this is to be done
            (self.folder / name).rename(inside / name)
        inside.rename(aside)
        self._progress.warn(f"{self.folder} holds results of other settings: moved to {aside}")


def machine_facts(backbone: Backbone) -> dict[str, Any]:
    """Commit, machine and versions, as they stand in results.json."""
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
    """Commit of the checkout this file stands in; empty for an installed copy."""
    folder = Path(__file__).resolve().parent
    try:
        inside = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=folder, capture_output=True
        )
        if inside.returncode:
            return ""
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
