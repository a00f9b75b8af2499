"""Teacher outputs, computed once and kept on disk if that is cheaper than recomputing them.

The file holds the logits of the answer tokens and the distilled hidden states for all rows of the sources, without
padding and without loss of precision (bfloat16 if the values fit it). Every stage with the same teachers, rows and
hidden states shares it.

The rule of "auto": the stage reads U rows in all, from N different ones. Keep the outputs if U > N, the file is within
the size limit, and N (forward + write) + U read < U forward, with times per row measured on the stage's first batch.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from prompttransfer.distributed import processes
from prompttransfer.files.store import StageResult, tensor_hash
from prompttransfer.methods.context import CODE_VERSION, Context
from prompttransfer.methods.distillation import Teacher, TeacherForward
from prompttransfer.models import IGNORED, Backbone, Batch, Output
from prompttransfer.models.rows import EncodedRow, EncodedRows

_GIB = 2**30
_Key = tuple[int, tuple[int, ...], tuple[int, ...]]  # a row's task, token ids and answer


@dataclass(frozen=True)
class Cost:
    """Seconds per row, and bytes per row of the file."""

    forward: float
    write: float
    read: float
    size: float


def worth_keeping(cost: Cost, rows: int, uses: int, limit: float) -> bool:
    """The rule of "auto" above; limit in bytes."""
    if uses <= rows or rows * cost.size > limit:
        return False
    return rows * (cost.forward + cost.write) + uses * cost.read < uses * cost.forward


@dataclass
class KeptTeacher:
    """`TeacherForward`, or its outputs from a file. Decided at the first batch, so a stored stage measures nothing.

    Args:
        rows: all rows of the sources, each with its task.
        uses: number of rows in all batches of the stage.
        keep: "auto", "always" or "never".
        limit_gb: largest file that auto writes, in GB.
    """

    ctx: Context
    teacher: TeacherForward
    rows: Sequence[EncodedRow]
    uses: int
    keep: str
    limit_gb: float
    _source: Teacher | None = None

    def __call__(self, backbone: Backbone, batch: Batch) -> Callable[[Output], Output]:
        if self._source is None:  # all processes follow the decision of one
            self._source = self._outputs() if processes.broadcast(self._worth(batch)) else self.teacher
        return self._source(backbone, batch)

    @cached_property
    def _order(self) -> list[_Key]:
        """Rows in the order of the file, in which rows of similar length share a batch."""
        return sorted(dict.fromkeys((row.task, row.ids, row.answer) for row in self.rows), key=lambda row: len(row[1]))

    @cached_property
    def _key(self) -> dict[str, Any]:
        ctx, teacher = self.ctx, self.teacher
        return {
            "stage": "teacher outputs",
            "version": CODE_VERSION,
            **ctx.backbone.identity,
            "teachers": tensor_hash(teacher.prompts.prompts),
            "rows": EncodedRows.of(self.rows).digest,
            "hidden": [teacher.hidden, teacher.hidden_positions],
            "batch": ctx.config.eval_batch_size,
        }

    def _worth(self, batch: Batch) -> bool:
        if self.keep != "auto":
            return self.keep == "always"
        if self.uses <= len(self.rows):
            return False
        if processes.broadcast(self.ctx.store.holds(self._key)):
            return True
        cost = measure(self.ctx.backbone, self.teacher, batch, self.ctx.store.folder)
        return worth_keeping(cost, len(self.rows), self.uses, self.limit_gb * _GIB)

    def _outputs(self) -> TeacherOutputs:
        ctx, teacher, order, size = self.ctx, self.teacher, self._order, self.ctx.config.eval_batch_size

        def compute(work: Path) -> StageResult:
            tensors = {}
            with closing(ctx.progress.stage("teacher outputs", len(order))) as handle:
                for first in ctx.backbone.share(range(0, len(order), size)):
                    chosen = order[first : first + size]
                    packed = pack(teacher.output(ctx.backbone, _batch(ctx.backbone, chosen)))
                    tensors |= {f"{name}.{first}": tensor for name, tensor in packed.items()}
                    handle.advance(len(chosen))
            parts = ctx.backbone.collected(tensors)
            return StageResult({name: tensor for part in parts for name, tensor in part.items()})

        return TeacherOutputs(order, size, ctx.store.cached(self._key, compute, "teacher outputs").tensors)


class TeacherOutputs:
    """A teacher that reads its outputs from a file.

    Args:
        order: task, token ids and answer of the rows, in the order of the file.
        size: rows per batch of the file.
        tensors: `pack` of every batch; each name ends in the index of the batch's first row.
    """

    def __init__(self, order: Sequence[_Key], size: int, tensors: dict[str, Tensor]) -> None:
        self._place = {row: index for index, row in enumerate(order)}
        self._size = size
        self._tensors = tensors
        # Where each row's logits and hidden states begin within its batch.
        self._answers = {
            first: [0, *accumulate(len(answer) for _, _, answer in order[first : first + size])]
            for first in range(0, len(order), size)
        }
        self._starts = {
            name: [0, *positions.sum(dim=1).cumsum(dim=0).tolist()]
            for name, positions in tensors.items()
            if name.startswith("positions.")
        }

    def __call__(self, backbone: Backbone, batch: Batch) -> Callable[[Output], Output]:
        return partial(self._laid_out, batch)

    def _laid_out(self, batch: Batch, student: Output) -> Output:
        ids, masks = batch["input_ids"].tolist(), batch["attention_mask"].tolist()
        logits, pieces = [], []
        for task, row, mask, labels in zip(
            batch["task_ids"].tolist(), ids, masks, batch["labels"].tolist(), strict=True
        ):
            text = tuple(token for token, real in zip(row, mask, strict=True) if real)
            index = self._place[task, text, tuple(token for token in labels if token != IGNORED)]
            first, at = index - index % self._size, index % self._size
            start, stop = self._answers[first][at : at + 2]
            logits.append(self._tensors[f"logits.{first}"][start:stop])
            if student.hidden:
                start, stop = self._starts[f"positions.{first}"][at : at + 2]
                positions = self._tensors[f"positions.{first}"][at].tolist()
                pieces.append(self._tensors[f"hidden.{first}"][start:stop].split(positions))
        hidden = tuple(
            _spread(state, mask, [piece[number] for piece in pieces])
            for number, (state, mask) in enumerate(student.hidden)
        )
        return Output(torch.cat(logits).float().to(student.logits.device), hidden)


def pack(output: Output) -> dict[str, Tensor]:
    """Copy the output of B rows to the CPU, without padding.

    logits: (N, V), of all answer tokens. With hidden states, also positions (B, states), the number of positions per
    row and state, and hidden (P, H), ordered by row, then by state.
    """
    logits = _shortest(output.logits.cpu())
    if not output.hidden:
        return {"logits": logits}
    states = [(state.float().cpu(), mask.bool().cpu()) for state, mask in output.hidden]
    rows = [state[b][mask[b]] for b in range(len(states[0][0])) for state, mask in states]
    positions = torch.stack([mask.sum(dim=1) for _, mask in states], dim=1)
    return {"logits": logits, "positions": positions, "hidden": _shortest(torch.cat(rows))}


def measure(backbone: Backbone, teacher: TeacherForward, batch: Batch, folder: Path) -> Cost:
    """Measure the cost of one row of a batch: the teachers' forward, and writing and reading its output in a folder."""
    rows = len(batch["input_ids"])

    def timed(work: Callable[[], Any]) -> tuple[float, Any]:
        start = time.perf_counter()
        result = work()
        return (time.perf_counter() - start) / rows, result

    def forward_once() -> Output:
        output = teacher.output(backbone, batch)
        output.logits.sum().item()  # waits for the device
        return output

    forward_once()  # the first forward of a model is slow
    forward, output = timed(forward_once)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".measure-") as scratch:
        file = Path(scratch) / "outputs.safetensors"
        write, _ = timed(lambda: save_file(pack(output), file))
        read, _ = timed(lambda: [tensor.clone().to(backbone.device) for tensor in load_file(file).values()])
        return Cost(forward, write, read, file.stat().st_size / rows)


def _batch(backbone: Backbone, rows: Sequence[_Key]) -> Batch:
    batch = backbone.collate([ids for _, ids, _ in rows], [answer for _, _, answer in rows])
    batch["task_ids"] = torch.tensor([task for task, _, _ in rows])
    return {name: tensor.to(backbone.device) for name, tensor in batch.items()}


def _shortest(tensor: Tensor) -> Tensor:
    """Convert to bfloat16 if that loses nothing, as for a model that computes in bfloat16."""
    short = tensor.bfloat16()
    return short if torch.equal(short.float(), tensor) else tensor


def _spread(state: Tensor, mask: Tensor, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Place each row's positions (n_b, H) as in the student's state (B, N, H) with mask (B, N); 0 elsewhere."""
    spread = torch.zeros_like(state, dtype=torch.float32)
    spread[mask.bool()] = torch.cat(list(parts)).float().to(state.device)
    return spread, mask
