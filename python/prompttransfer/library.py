"""A library of trained prompts: a folder that finds which of thousands resemble a given one.

For each prompt `<name>.safetensors` and its card `<name>.json`; `starts/` holds the prompts P_init that several of them
were trained from, by hash. `index.json` repeats the cards with the sizes and times of the files; what does not agree
with the files is read again, so that they can be added, changed and removed by any means.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import promptkernels as pk
from prompttransfer.durable import write_json
from prompttransfer.interchange import Card, read_prompt, read_tensors, write_tensors
from prompttransfer.interchange.files import TENSOR

FORMAT = 1
METRICS = ("cosine", "token_mean_cosine")
_BLOCK_BYTES = 1 << 25  # prompts that are compared at once


@dataclass(frozen=True)
class Entry:
    """A stored prompt: its card, and the length and width of its matrix."""

    name: str
    path: Path
    card: Card
    shape: tuple[int, int]


@dataclass(frozen=True)
class Match:
    """A stored prompt and its similarity, -1 to 1; of: what was compared."""

    entry: Entry
    similarity: float
    of: Literal["task vectors", "prompts"]


@dataclass
class Library:
    """The prompts of a folder, by name.

    problems: files that are no prompts or no cards, with what is wrong.
    """

    folder: Path
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path) -> Library:
        """Read a library; of files that are as they were, only the index is read.

        Raises:
            ValueError: there is no such folder.
        """
        library = cls(Path(folder))
        if not library.folder.is_dir():
            raise ValueError(f"{folder}: no such library; prompttransfer library add makes one")
        library._read()
        return library

    def _read(self) -> None:
        self.entries.clear()
        self.problems.clear()
        known, index = self._index(), {}
        files = {file.name: file.stat() for file in os.scandir(self.folder) if file.is_file()}
        for file in sorted(files):
            if not file.endswith(".safetensors") or file.startswith("."):
                continue
            name = file.removesuffix(".safetensors")
            path, card = self.folder / file, files.get(f"{name}.json")
            state = [[stat.st_size, stat.st_mtime_ns] if stat else None for stat in (files[file], card)]
            try:
                row = known.get(name)
                if row is None or row["state"] != state:
                    row = {"state": state, **_described(path, path.with_suffix(".json") if card else None)}
                self.entries[name] = Entry(name, path, Card.checked(row["card"], path), tuple(row["shape"]))
                index[name] = row
            except ValueError as error:
                self.problems.append(str(error))
        if index != known:
            with suppress(OSError):  # a library of somebody else's is read as it is
                write_json(self.folder / "index.json", {"format": FORMAT, "prompts": index})

    def _index(self) -> dict[str, Any]:
        try:
            content = json.loads((self.folder / "index.json").read_text(encoding="utf-8"))
            return content["prompts"] if content["format"] == FORMAT else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def add(self, path: Path, name: str, *, replace: bool = False, **facts: Any) -> str:
        """Add a prompt file and return its name.

        Args:
            facts: fields of `Card` that go before those in the file.
            replace: a prompt of that name may be there already.

        Raises:
            ValueError: not a prompt file, or another prompt has the name.
        """
        read_prompt(path)
        tensors, metadata = read_tensors(path)
        day = datetime.fromtimestamp(Path(path).stat().st_mtime, timezone.utc).date().isoformat()
        known = {"date": day} | Card.of(metadata, path).model_dump(exclude_defaults=True)
        card = Card.checked(known | facts, path)
        name = re.sub(r"[^\w.-]+", "-", name).strip("-.")
        target = self.folder / f"{name}.safetensors"
        if not name:
            raise ValueError(f"{path}: want a name of letters and digits")
        if target.exists() and not replace and not _same(read_tensors(target)[0], tensors):
            raise ValueError(
                f"{self.folder}: there is another prompt {name!r}; want --replace, or --prefix for a new name"
            )
        write_tensors(target, tensors, card.metadata())
        write_json(target.with_suffix(".json"), card.model_dump(mode="json", exclude_defaults=True))
        return name

    def add_start(self, path: Path) -> None:
        """Keep a P_init, without which its prompts have no task vectors."""
        start, _ = read_prompt(path)
        from prompttransfer.prompts import init_hash

        target = self._start(init_hash(start))
        if not target.is_file():
            write_tensors(target, {TENSOR: start}, {"init_hash": init_hash(start)})

    def add_run(self, folder: Path, *, prefix: str | None = None, replace: bool = False, **facts: Any) -> list[str]:
        """Add every target and source prompt of a run folder, with its scores, and their starts; returns the names.

        Args:
            prefix: of the names; that of the folder, or of the prompt file it belongs to, if None.

        Raises:
            ValueError: not a run folder, or a prompt of it is missing.
        """
        folder = Path(folder)
        try:
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
            rows = [*results["sources"], *results["rows"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder}: neither a prompt file nor a run folder with results.json") from error
        if prefix is None:
            prefix = folder.resolve().name.removesuffix(".run").removesuffix(".safetensors")
        names = []
        for row in rows:
            path = folder / row["prompt"]
            scores = {name: row[name] for name in ("majority", "zero_shot") if row.get(name) is not None}
            kind = Path(row["prompt"]).parent.name
            name = "-".join(filter(None, (prefix, kind, path.stem)))
            names.append(self.add(path, name, replace=replace, scores=scores, metric=row["metric"], **facts))
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
    ) -> list[Match]:
        """Stored prompts by their similarity to a prompt (L, H), the most similar first.

        Prompts that were trained from the same P_init are compared by their task vectors, and come first: the others
        are compared as they are, which says less. Of other models, and of other shapes, none is compared;
        `token_mean_cosine` compares prompts of any length. Blocks of prompts are in memory, never all.

        Args:
            card: of the prompt.
            start: its P_init, if it is not in the library.
            but: a file that is not compared, such as that of the prompt itself.

        Raises:
            ValueError: unknown metric, or a stored file was damaged since it was indexed.
        """
        if metric not in METRICS:
            raise ValueError(f"metric: got {metric!r}, want {' or '.join(METRICS)}")
        if start is None and card.init_hash and self._start(card.init_hash).is_file():
            start, _ = read_prompt(self._start(card.init_hash))
        found = []
        chosen = [entry for entry in self.entries.values() if self._comparable(entry, prompt, card, metric, but)]

        def has_start(entry: Entry) -> bool:
            same = bool(card.init_hash) and entry.card.init_hash == card.init_hash
            return start is not None and same and entry.shape == tuple(start.shape)

        chosen.sort(key=lambda entry: (not has_start(entry), entry.shape))
        for (other, _), group in groupby(chosen, key=lambda entry: (not has_start(entry), entry.shape)):
            reference = None if other else start
            for block in _blocks(list(group)):
                values = _similarity(prompt, torch.stack([_matrix(entry) for entry in block]), reference, metric)
                of: Literal["task vectors", "prompts"] = "prompts" if other else "task vectors"
                found += [Match(entry, value, of) for entry, value in zip(block, values, strict=True)]
        return sorted(found, key=lambda match: (match.of == "prompts", -match.similarity, match.entry.name))

    def _comparable(self, entry: Entry, prompt: Tensor, card: Card, metric: str, but: Path | None) -> bool:
        fingerprints = {card.model_fingerprint, entry.card.model_fingerprint} - {""}
        if len(fingerprints) > 1 or (but is not None and but.exists() and entry.path.samefile(but)):
            return False
        shape = tuple(prompt.shape)
        return entry.shape == shape if metric == "cosine" else entry.shape[1] == shape[1]

    def _start(self, init_hash: str) -> Path:
        return self.folder / "starts" / f"{re.sub(r'[^0-9a-f]', '', init_hash)}.safetensors"


def _similarity(prompt: Tensor, block: Tensor, reference: Tensor | None, metric: str) -> list[float]:
    """Of a prompt (L, H) with a block (B, L', H)."""
    if metric == "token_mean_cosine" and block.shape[1] != prompt.shape[0]:
        prompt, block, metric = prompt.mean(dim=0, keepdim=True), block.mean(dim=1, keepdim=True), "cosine"
    return pk.task_similarity(block, reference, prompt[None], metric=metric)[:, 0].tolist()


def _described(path: Path, card: Path | None) -> dict[str, Any]:
    """Card and shape of a prompt file; only its head is read.

    Raises:
        ValueError: it is none, or its card is wrong.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shape = file.get_slice(TENSOR).get_shape() if TENSOR in file.keys() else []  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: not a readable safetensors file, or not all of it ({error})") from error
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"{path}: want a tensor {TENSOR!r} of shape (L, H), got {tuple(shape) or 'none'}")
    checked = Card.of(metadata, path)
    if card is not None:
        try:
            content = json.loads(card.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{card}: not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{card}: got a {type(content).__name__}, want the fields of a card")
        checked = Card.checked(content, card)
    return {"shape": shape, "card": checked.model_dump(mode="json", exclude_defaults=True)}


def _blocks(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    """Entries of one shape, so many at a time that their matrices stay below a size."""
    length, width = entries[0].shape
    step = max(1, _BLOCK_BYTES // (4 * length * width))
    for first in range(0, len(entries), step):
        yield entries[first : first + step]


def _matrix(entry: Entry) -> Tensor:
    """The prompt (L, H) of an entry, float32."""
    try:
        with safe_open(entry.path, framework="pt") as file:
            prompt: Tensor = file.get_tensor(TENSOR)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{entry.path}: not a readable safetensors file, or not all of it ({error})") from error
    return prompt.float()


def _same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
