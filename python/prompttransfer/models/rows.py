"""Tokenized training rows, packed: a million rows take a few hundred megabytes."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import overload

import numpy as np
import torch
from torch import Tensor

_ARRAYS = ("ids", "ends", "answers", "answer_ends", "tasks")


@dataclass(frozen=True)
class EncodedRow:
    """One training example: token ids of its text and answer, and index of its task."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]
    task: int = 0


class EncodedRows(Sequence[EncodedRow]):
    """Rows in flat arrays, converted to an `EncodedRow` on access.

    Args:
        ids: concatenated token ids of all texts; answers: of all answers.
        ends: end of each row's text in `ids`; answer_ends: end of its answer in `answers`.
        tasks: index of each row's task.
    """

    def __init__(
        self, ids: np.ndarray, ends: np.ndarray, answers: np.ndarray, answer_ends: np.ndarray, tasks: np.ndarray
    ) -> None:
        self._ids, self._answers = ids.astype(np.int32, copy=False), answers.astype(np.int32, copy=False)
        self._ends, self._answer_ends = ends.astype(np.int64, copy=False), answer_ends.astype(np.int64, copy=False)
        self._tasks = tasks.astype(np.int32, copy=False)

    @classmethod
    def of(cls, rows: Iterable[EncodedRow]) -> EncodedRows:
        """Pack single rows. Rows that are already packed are returned as they are."""
        if isinstance(rows, EncodedRows):
            return rows
        ids, ends, answers, answer_ends, tasks = (array(kind) for kind in "iqiqi")
        for row in rows:
            ids.extend(row.ids)
            answers.extend(row.answer)
            ends.append(len(ids))
            answer_ends.append(len(answers))
            tasks.append(row.task)
        return cls(*map(np.array, (ids, ends, answers, answer_ends, tasks)))

    @classmethod
    def one_task_each(cls, parts: Iterable[Iterable[EncodedRow]]) -> EncodedRows:
        """Concatenate the rows of several tasks. A row's task becomes the index of its part."""
        each = [cls.of(part) for part in parts]
        return cls(
            np.concatenate([part._ids for part in each]),
            _joined_ends([part._ends for part in each]),
            np.concatenate([part._answers for part in each]),
            _joined_ends([part._answer_ends for part in each]),
            np.repeat(np.arange(len(each), dtype=np.int32), [len(part) for part in each]),
        )

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> EncodedRows:
        """The inverse of `tensors`."""
        return cls(*(tensors[name].numpy() for name in _ARRAYS))

    def tensors(self) -> dict[str, Tensor]:
        """All arrays, to save in a file."""
        return {name: torch.from_numpy(getattr(self, f"_{name}")) for name in _ARRAYS}

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> EncodedRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[EncodedRow]: ...

    def __getitem__(self, index: int | slice) -> EncodedRow | list[EncodedRow]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # handles negative indices, and raises IndexError past the end
        ids = self._ids[self._ends[place - 1] if place else 0 : self._ends[place]]
        answer = self._answers[self._answer_ends[place - 1] if place else 0 : self._answer_ends[place]]
        return EncodedRow(tuple(ids.tolist()), tuple(answer.tolist()), int(self._tasks[place]))

    @property
    def lengths(self) -> list[int]:
        """Number of text tokens of each row."""
        lengths: list[int] = np.diff(self._ends, prepend=0).tolist()
        return lengths

    def holding(self, token: int) -> list[int]:
        """Indices of the rows whose text contains a token."""
        positions = np.flatnonzero(self._ids == token)
        places: list[int] = np.unique(np.searchsorted(self._ends, positions, side="right")).tolist()
        return places

    @property
    def answer_tokens(self) -> int:
        """Number of tokens in all answers together."""
        return len(self._answers)

    @cached_property
    def digest(self) -> str:
        """Hash of the content."""
        state = hashlib.sha256()
        for flat in self.tensors().values():
            state.update(f"{len(flat)};".encode() + flat.numpy().tobytes())
        return state.hexdigest()[:32]


def _joined_ends(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Ends within the concatenation of several flat arrays."""
    sizes = [int(part[-1]) if len(part) else 0 for part in parts]
    offsets = np.cumsum([0, *sizes[:-1]])
    return np.concatenate([part + offset for part, offset in zip(parts, offsets, strict=True)])
