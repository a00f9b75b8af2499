"""Teacher outputs on disk: the same as a forward, kept if that is cheaper."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recipes import batch_of, context, random

from prompttransfer.methods import METHODS, teachers
from prompttransfer.methods.distillation import TeacherForward
from prompttransfer.methods.teachers import Cost, KeptTeacher, TeacherOutputs, pack, worth_keeping
from prompttransfer.models import Backbone
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import FrozenPrompts, SoftPrompt
from prompttransfer.tasks.task import Task


def outputs_of(backbone: Backbone, rows: list[EncodedRow], teacher: TeacherForward, size: int) -> TeacherOutputs:
    order, tensors = [(row.task, row.ids, row.answer) for row in rows], {}
    for first in range(0, len(order), size):
        chosen = order[first : first + size]
        batch = backbone.collate([ids for _, ids, _ in chosen], [answer for _, _, answer in chosen])
        batch["task_ids"] = torch.tensor([task for task, _, _ in chosen])
        tensors |= {f"{name}.{first}": tensor for name, tensor in pack(teacher.output(backbone, batch)).items()}
    return TeacherOutputs(order, size, tensors)


ROWS = [
    EncodedRow((13,), (4,)),
    EncodedRow((14, 15), (4,)),
    EncodedRow((14, 15), (4,), 1),
    EncodedRow((10, 11, 12), (5, 9, 2), 1),
    EncodedRow((9, 8, 7, 6), (5, 2), 0),
]


@pytest.mark.parametrize("hidden", ["none", "last", "all"])
@pytest.mark.parametrize("positions", ["text", "all"])
def test_kept_outputs_are_those_of_a_forward_in_any_batch(backbone: Backbone, hidden: str, positions: str) -> None:
    teacher = TeacherForward(FrozenPrompts(random(2, 3, 16)), hidden, positions)
    kept = outputs_of(backbone, ROWS, teacher, size=2)
    for chosen in ([4, 0], [2, 1, 3], [0]):
        batch = backbone.collate([ROWS[index].ids for index in chosen], [ROWS[index].answer for index in chosen])
        batch["task_ids"] = torch.tensor([ROWS[index].task for index in chosen])
        student = SoftPrompt(random(3, 16, seed=1))
        ours = backbone(student, batch, hidden=hidden, hidden_positions=positions)
        got, expected = kept(backbone, batch)(ours), teacher.output(backbone, batch)
        torch.testing.assert_close(got.logits, expected.logits, rtol=1e-4, atol=1e-5)
        assert len(got.hidden) == len(expected.hidden)
        for (state, mask), (wanted, same) in zip(got.hidden, expected.hidden, strict=True):
            assert torch.equal(mask, same)
            torch.testing.assert_close(state, wanted * mask[..., None], rtol=1e-4, atol=1e-5)


def test_outputs_of_a_model_in_bfloat16_take_half_the_room_and_lose_nothing(llama: Backbone) -> None:
    batch = batch_of(llama)
    output = TeacherForward(FrozenPrompts(random(2, 3, 16))).output(llama, batch)
    assert pack(output)["logits"].dtype == torch.float32
    output.logits = output.logits.bfloat16().float()
    short = pack(output)["logits"]
    assert short.dtype == torch.bfloat16
    assert torch.equal(short.float(), output.logits)


def test_outputs_are_kept_where_that_is_cheaper_and_small_enough() -> None:
    cost = Cost(forward=1.0, write=0.5, read=0.01, size=1000)
    assert worth_keeping(cost, rows=100, uses=200, limit=1e6)
    assert not worth_keeping(cost, rows=100, uses=200, limit=99_999)
    assert not worth_keeping(cost, rows=100, uses=100, limit=1e6)  # every row is needed once
    assert not worth_keeping(cost, rows=100, uses=150, limit=1e6)  # 150 + 1.5 of 150
    slow_disk = Cost(forward=1.0, write=0.5, read=1.5, size=1000)
    assert not worth_keeping(slow_disk, rows=100, uses=10_000, limit=1e6)


def test_auto_measures_only_where_rows_come_again_and_takes_what_is_there(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, _ = context(llama, tasks, tmp_path)
    measured = []

    def measure(*_: object) -> Cost:
        measured.append(True)
        return Cost(1.0, 0.0, 2.0, 1.0)  # never worth it

    monkeypatch.setattr(teachers, "measure", measure)
    teacher = TeacherForward(FrozenPrompts(random(2, 3, 16)))
    batch = llama.collate([row.ids for row in ROWS], [row.answer for row in ROWS])
    batch["task_ids"] = torch.tensor([row.task for row in ROWS])

    def files(uses: int, keep: str) -> int:
        KeptTeacher(ctx, teacher, ROWS, uses, keep, 1.0)(llama, batch)
        return len(list((tmp_path / "done").iterdir()))

    assert (files(5, "auto"), len(measured)) == (0, 0)
    assert (files(6, "auto"), len(measured)) == (0, 1)
    assert (files(6, "never"), len(measured)) == (0, 1)
    assert (files(1, "always"), len(measured)) == (1, 1)
    monkeypatch.setattr(TeacherForward, "output", None)  # from here on there is only the file
    assert (files(6, "auto"), len(measured)) == (1, 1)


def test_a_real_measurement_is_of_one_row(llama: Backbone, tmp_path: Path) -> None:
    cost = teachers.measure(llama, TeacherForward(FrozenPrompts(random(2, 3, 16))), batch_of(llama), tmp_path)
    values = 4 * (llama.model.config.vocab_size + 2 * 16)  # logits, and two text tokens of the last layer per row
    assert values < cost.size < values + 200
    assert min(cost.forward, cost.write, cost.read) > 0
    assert list(tmp_path.iterdir()) == []


def test_training_with_kept_outputs_is_training_with_teachers(
    backbone: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    results = []
    for keep in ("always", "never"):
        ctx, target = context(backbone, tasks, tmp_path / keep, mpt={"teacher_cache": keep, "source_updates": 12})
        results.append(METHODS["MPT"].run(ctx, target))
    torch.testing.assert_close(results[0].prompt, results[1].prompt, rtol=1e-4, atol=1e-5)
    losses = [torch.tensor(result.history["source_loss"]) for result in results]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
