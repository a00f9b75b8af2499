"""A study: common settings, and entries (methods with their own settings) that are compared on the same rows.

The settings files are next to this file. `common.json` has the common settings of most studies, `common-shipped.json`
those of studies with the shipped settings, where everything else is a default of RunConfig. A study's file has

    about      one line for its page
    settings   of RunConfig, on top of the common ones
    entries    label -> {"method": ..., "against": label it is compared with, settings}; default: every method
               that has a grid in `tuned`
    grids      in place of entries, for tuning: method -> {setting: values}; every combination is an entry
    pictures   names of the pictures of its page; default: all
    common     the file of its common settings, which may also have entries and tuned; default: "common"
    tuned      the tuning study whose choice applies; default: "tuning"; null: none
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from prompttransfer import RunConfig
from prompttransfer.methods import METHODS
from prompttransfer.settings.base import Settings
from prompttransfer.settings.overlay import merged, nested

HERE = Path(__file__).parent
TUNING = ("tuning", "tuning-full")
SHIPPED = tuple(f"shipped-{rows}-rows-{updates}-updates" for rows in ("16", "all") for updates in (16, 64, 256))
REPORTED = (*SHIPPED, "few16", "few32", "full", "ablations", "full-dtvg")
BASELINE = "PT"
# Settings that an entry may change: none that affect the rows, the model, or P_init, which all entries share.
_BLOCKS = dict.fromkeys(block.block for method in METHODS.values() for block in method.settings)
_OWN = ("target_learning_rate", "schedule", "warmup", "weight_decay", "transfer_from", *_BLOCKS)
Best = Mapping[str, Mapping[str, dict[str, Any]]]  # tuning study -> method -> settings
PLACES = {"output", "cache"}  # folders, which do not affect results


class Entry(Settings):
    """A method with its own settings, nested as in RunConfig."""

    method: Literal[tuple(METHODS)]
    against: str = BASELINE
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _own_settings(self) -> Entry:
        foreign = sorted(set(self.settings) - set(_OWN))
        if foreign:
            raise ValueError(f"an entry may set {', '.join(_OWN)}; got {', '.join(foreign)}")
        return self


class Study(Settings):
    """A study; see the module docstring."""

    name: str
    about: str
    settings: dict[str, Any]
    entries: dict[str, Entry]
    pictures: tuple[str, ...] | None = None
    tuned: str | None = None  # the tuning study that its settings come from

    @property
    def config(self) -> RunConfig:
        """The common settings of all entries. Includes all their methods, so that the sources are loaded."""
        methods = tuple(dict.fromkeys(entry.method for entry in self.entries.values()))
        return RunConfig(**{**self.settings, "methods": methods})

    def config_of(self, label: str) -> RunConfig:
        """The settings of one entry."""
        entry = self.entries[label]
        return RunConfig(**merged(self.settings, entry.settings), methods=(entry.method,))

    def facts_of(self, label: str) -> dict[str, Any]:
        """The settings of one entry, as JSON data, without folders."""
        return self.config_of(label).model_dump(mode="json", exclude=PLACES)

    @property
    def cells(self) -> list[tuple[int, str, str]]:
        """(seed, target, label) of all cells, in the order of the run."""
        config = self.config
        return [(seed, target, label) for seed in config.seeds for target in config.targets for label in self.entries]


def read_study(name: str, best: Best | None = None, folder: Path = HERE) -> Study:
    """Read a study by the name of its file.

    Args:
        best: settings chosen by tuning, see `bench.evidence.tuning.best_settings`. An entry's own settings override
            them.
        folder: folder of the settings files.

    Raises:
        FileNotFoundError: there is no such study.
        ValueError: settings do not exist or do not fit together, grids differ in size, or `best` lacks a method of a
            tuned study.
    """
    path = folder / f"{name}.json"
    if name.startswith("common") or not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.json") if not file.stem.startswith("common")))
        raise FileNotFoundError(f"unknown study {name!r}; there are {known}")
    content = json.loads(path.read_text(encoding="utf-8"))
    common = content.pop("common", "common")
    shared = json.loads((folder / f"{common}.json").read_text(encoding="utf-8"))
    content = {name: shared.pop(name) for name in ("entries", "tuned") if name in shared} | content
    settings = merged(shared, content.pop("settings", {}))
    if "grids" in content:
        entries = grid_entries(content.pop("grids"))
    else:
        tuning = content.setdefault("tuned", "tuning")
        entry_settings = content.pop("entries", None) or {
            method: {"method": method} for method in _grids(folder, tuning)
        }
        entries = {label: Entry(**entry) for label, entry in entry_settings.items()}
        if tuning is not None:
            chosen = (best or {}).get(tuning, {})
            entries = {label: _tuned(entry, chosen, tuning) for label, entry in entries.items()}
    study = Study(name=name, settings=settings, entries=entries, **content)
    for label, entry in entries.items():
        if entry.against not in entries:
            raise ValueError(f"study {name}, entry {label!r}: it is compared with {entry.against!r}, which is no entry")
        study.config_of(label)
    return study


def grid_entries(grids: Mapping[str, Mapping[str, list[Any]]]) -> dict[str, Entry]:
    """Every combination of every method's grid. Settings of a method's block have a dot: "mpt.rank".

    Raises:
        ValueError: the grids differ in size, so some methods would be tuned more than others.
    """
    sizes = {method: len(list(product(*grid.values()))) for method, grid in grids.items()}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{method} {size}" for method, size in sizes.items())
        raise ValueError(f"every method gets the same number of settings to try, got {counts}")
    entries = {}
    for method, grid in grids.items():
        for number, values in enumerate(product(*grid.values()), 1):
            settings: dict[str, Any] = {}
            for name, value in zip(grid, values, strict=True):
                settings = merged(settings, nested(name, value))
            entries[f"{method} {number}"] = Entry(method=method, settings=settings)
    # Tuning compares settings of one method with each other, so no entry is the baseline.
    return {label: entry.model_copy(update={"against": label}) for label, entry in entries.items()}


def _grids(folder: Path, tuning: str) -> dict[str, Any]:
    grids: dict[str, Any] = json.loads((folder / f"{tuning}.json").read_text(encoding="utf-8"))["grids"]
    return grids


def _tuned(entry: Entry, chosen: Mapping[str, dict[str, Any]], tuning: str) -> Entry:
    if entry.method not in chosen:
        raise ValueError(f"{entry.method} is not tuned yet; run `python -m bench.evidence tune {tuning}` first")
    return entry.model_copy(update={"settings": merged(chosen[entry.method], entry.settings)})
