"""A library of trained prompts: a folder with a search for the prompts most similar to a given one.

Each prompt is a file `<name>.safetensors` with its card `<name>.json`. `starts/` contains the prompts P_init from which
they were trained, by hash. `index.sqlite` copies the cards with the sizes and times of the files. Entries that do not
match the files are read again, so you can add, change and remove files by any means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import promptkernels as pk
from prompttransfer.files.durable import write_json
from prompttransfer.files.json_file import read_json
from prompttransfer.files.paths import file_stem
from prompttransfer.interchange import Card, read_prompt, read_tensors, write_tensors
from prompttransfer.interchange.files import TENSOR
from prompttransfer.interchange.hub import Place, prompt_file
from prompttransfer.library.index import Entry, Index
from prompttransfer.library.reading import parts
from prompttransfer.runs.rows import SourceRow, TargetRow, read_rows

METRICS = ("cosine", "token_mean_cosine")


@dataclass(frozen=True)
class Match:
    """A stored prompt and its similarity, -1 to 1. of: what was compared."""

    entry: Entry
    similarity: float
    of: Literal["task vectors", "prompts"]


@dataclass(frozen=True)
class SearchResult:
    """Matches, starting with the most similar. compared: number of prompts compared."""

    matches: list[Match]
    compared: int


class Library:
    """The prompts of a folder, by name.

    Attributes:
        problems: one message for each file that is not a valid prompt or card.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.problems: list[str] = []

    @classmethod
    def open(cls, folder: Path) -> Library:
        """Open a library. Only new and changed files are read; the index covers the rest.

        Raises:
            ValueError: the folder does not exist.
        """
        library = cls(folder)
        library.entries  # noqa: B018
        return library

    @cached_property
    def entries(self) -> Index:
        """The prompts by name, as they were at the first use."""
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such library; create one with prompttransfer library add")
        index = Index(self.folder)
        self.problems += index.update()
        return index

    def add(self, path: Place, name: str, *, replace: bool = False, **facts: Any) -> str:
        """Add a prompt file, or the hub ID of one, and return its name.

        Args:
            facts: fields of `Card` that override those in the file.
            replace: allow replacing a prompt with the same name.

        Raises:
            ValueError: the file is not a prompt file, or another prompt has the name.
            ConnectionError: the file is on a hub that does not answer.
        """
        file = prompt_file(path)
        read_prompt(file)
        tensors, metadata = read_tensors(file)
        day = datetime.fromtimestamp(file.stat().st_mtime, timezone.utc).date().isoformat()
        known = {"date": day} | Card.of(metadata, path).model_dump(exclude_defaults=True)
        card = Card.checked(known | facts, path)
        name = file_stem(name)
        target = self.folder / f"{name}.safetensors"
        if not name:
            raise ValueError(f"{path}: want a name of letters and digits")
        if target.exists() and not replace and not _same(read_tensors(target)[0], tensors):
            raise ValueError(
                f"{self.folder}: there is already another prompt {name!r}; use --replace, or --prefix for a new name"
            )
        write_tensors(target, tensors, card.metadata())
        write_json(target.with_suffix(".json"), card.model_dump(mode="json", exclude_defaults=True))
        return name

    def add_start(self, path: Path) -> None:
        """Add a P_init. Without it, prompts that were trained from it have no task vectors."""
        start, _ = read_prompt(path)
        from prompttransfer.prompts import init_hash

        target = self._start(init_hash(start))
        if not target.is_file():
            write_tensors(target, {TENSOR: start}, {"init_hash": init_hash(start)})

    def add_run(self, folder: Path, *, prefix: str | None = None, replace: bool = False, **facts: Any) -> list[str]:
        """Add every target and source prompt of a run folder, with scores and starts, and return their names.

        Args:
            prefix: prefix of the names; None: name of the folder, or of the prompt file that it belongs to.

        Raises:
            ValueError: the folder is not a run folder, or one of its prompts is missing.
        """
        folder = Path(folder)
        try:
            content = read_json(folder / "results.json")
        except OSError as error:
            raise ValueError(f"{folder}: neither a prompt file nor a run folder with results.json") from error
        results = read_rows(content, folder / "results.json")
        if prefix is None:
            prefix = folder.resolve().name.removesuffix(".run").removesuffix(".safetensors")
        names = []
        rows: list[TargetRow | SourceRow] = [*results.sources, *results.rows]
        for row in rows:
            if row.prompt is None:
                raise ValueError(
                    f"{folder}: the results have no path for the prompt of {row.name}; run it again to save the prompts"
                )
            name = f"{prefix}-{row.name}" if prefix else row.name
            names.append(
                self.add(folder / row.prompt, name, replace=replace, scores=row.baselines, metric=row.metric, **facts)
            )
        for start in sorted(folder.glob("prompts/P_init-*.safetensors")):
            self.add_start(start)
        return names

    def similar(
        self,
        prompt: Tensor,
        card: Card,
        *,
        metric: str = "cosine",
        start: Tensor | None = None,
        but: Path | None = None,
        top: int | None = None,
    ) -> SearchResult:
        """Rank stored prompts by their similarity to a prompt (L, H), starting with the most similar.

        Prompts trained from the same P_init are compared by their task vectors and come first. The others are compared
        directly, which tells less. Prompts of other models or shapes are skipped; `token_mean_cosine` compares prompts
        of any length. Every file is read once, and only a few blocks of prompts are in memory. A prompt with infinite
        or undefined numbers is skipped and named in `problems`.

        Args:
            card: card of the prompt.
            start: P_init of the prompt, if the library does not have it.
            but: a file to skip, such as the prompt itself.
            top: largest number of matches; None: all.

        Raises:
            ValueError: the metric is unknown, `start` has the wrong shape, or a file changed since the library was
                opened.
        """
        if metric not in METRICS:
            raise ValueError(f"metric: got {metric!r}, want {' or '.join(METRICS)}")
        if start is None and card.init_hash and self._start(card.init_hash).is_file():
            start, _ = read_prompt(self._start(card.init_hash))
        if start is not None and start.shape != prompt.shape:
            raise ValueError(f"start: got shape {tuple(start.shape)}, want the prompt's shape {tuple(prompt.shape)}")
        length, width = prompt.shape
        stored = self.entries.comparable(
            length,
            width,
            any_length=metric == "token_mean_cosine",
            model=card.model_fingerprint,
            start=card.init_hash if start is not None else "",
        )
        left_out = but.stat() if but is not None and but.exists() else None

        def work(prompts: Tensor, shares: bool) -> np.ndarray:
            return _similarity(prompt, prompts, start if shares else None, metric)

        ids, values, shares = [np.empty(0, np.int64)], [np.empty(0)], [np.empty(0, bool)]
        for part in parts(self.folder, stored, work, left_out):
            ids.append(np.array(part.ids, np.int64))
            values.append(part.values)
            shares.append(np.full(len(part.ids), part.shares))
        return self._best(np.concatenate(ids), np.concatenate(values), np.concatenate(shares), top)

    def shares_start(self, card: Card) -> bool:
        """Whether a stored prompt was trained from the same P_init as the card's prompt. False if that is unknown."""
        return bool(card.init_hash) and self.entries.shares_start(card.init_hash)

    def _best(self, ids: np.ndarray, values: np.ndarray, shares: np.ndarray, top: int | None) -> SearchResult:
        finite = np.isfinite(values)
        self.problems += [
            f"{self.entries.by_id(int(number)).path}: tensor {TENSOR!r} has infinite or undefined numbers"
            for number in ids[~finite]
        ]
        ids, values, shares = ids[finite], values[finite], shares[finite]
        order = np.lexsort((-values, ~shares))
        if top is not None and top < len(order):
            last = order[top - 1]  # ties are kept until they are ordered by name
            ties = (values[order[top:]] == values[last]) & (shares[order[top:]] == shares[last])
            order = order[: top + int(ties.sum())]
        matches = [
            Match(self.entries.by_id(int(ids[at])), float(values[at]), "task vectors" if shares[at] else "prompts")
            for at in order
        ]
        matches.sort(key=lambda match: (match.of == "prompts", -match.similarity, match.entry.name))
        return SearchResult(matches[:top], int(finite.sum()))

    def _start(self, init_hash: str) -> Path:
        return self.folder / "starts" / f"{re.sub(r'[^0-9a-f]', '', init_hash)}.safetensors"


def _similarity(prompt: Tensor, block: Tensor, reference: Tensor | None, metric: str) -> np.ndarray:
    """Similarity of a prompt (L, H) to a block of prompts (B, L', H)."""
    if metric == "token_mean_cosine" and block.shape[1] != prompt.shape[0]:
        prompt, block, metric = prompt.mean(dim=0, keepdim=True), block.mean(dim=1, keepdim=True), "cosine"
    return pk.task_similarity(block, reference, prompt[None], metric=metric)[:, 0].double().numpy()


def _same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
