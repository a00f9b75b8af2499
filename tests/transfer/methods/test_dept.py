"""DePT: a shorter prompt, and a low-rank offset of the embeddings of the text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from literal import literal_answer_logits
from recipes import context, random
from torch import Tensor

from prompttransfer import RunConfig
from prompttransfer.interchange import read_prompt, read_trained, write_tensors
from prompttransfer.methods import METHODS
from prompttransfer.methods.dept import DePTConfig
from prompttransfer.models import Backbone
from prompttransfer.models.answering import Reader
from prompttransfer.prompts import OffsetPrompt, SoftPrompt
from prompttransfer.tasks.task import Task

NO_SCHEDULE: dict[str, Any] = {"schedule": "constant_with_warmup", "warmup_updates": 0, "max_grad_norm": 0}
SLOW = 1e-12  # a rate that leaves everything where it starts


def moved(width: int = 6, positions: int = 4) -> OffsetPrompt:
    """Two prompt tokens and an offset of rank 3, away from its start."""
    prompt = OffsetPrompt(random(2, width), positions, 3, seed=5)
    with torch.no_grad():
        prompt.offset_b.copy_(random(3, width, seed=6))
    return prompt


def literal(prompt: OffsetPrompt, text: Tensor) -> np.ndarray:
    """Input of the model for one row of embeddings (n, H) without padding, number by number in float64."""
    short, a, b = (tensor.detach().double().numpy() for tensor in prompt.parameters())
    read = text.detach().double().numpy().copy()
    for place in range(min(len(read), len(a))):
        for column in range(read.shape[1]):
            read[place, column] += sum(a[place, k] * b[k, column] for k in range(len(b)))
    return np.concatenate([short, read])


class Literal:
    """The same, as a prompt that the literal forward reads; the gradient goes through plain torch."""

    def __init__(self, short: Tensor, a: Tensor, b: Tensor) -> None:
        self.short, self.a, self.b = short, a, b

    def prepend(self, embeds: Tensor, task_ids: Tensor) -> Tensor:
        text = [embeds[0, i] + self.a[i] @ self.b if i < len(self.a) else embeds[0, i] for i in range(embeds.shape[1])]
        return torch.cat([self.short, torch.stack(text)])[None]


@pytest.mark.parametrize("mask", [[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 1], [1, 1, 0, 0, 0, 0]])
def test_a_row_gets_the_offset_of_its_own_positions(mask: list[int]) -> None:
    prompt, text = moved(), random(1, 6, 6, seed=7)
    got = prompt.prepend(text, mask=torch.tensor([mask]))[0].detach()
    place = [index for index, real in enumerate(mask) if real]
    np.testing.assert_allclose(got[[0, 1, *(2 + index for index in place)]], literal(prompt, text[0, place]), atol=1e-6)
    padding = [index for index, real in enumerate(mask) if not real]
    assert torch.equal(got[2:][padding], text[0, padding])
    if all(mask):
        assert torch.equal(prompt.prepend(text)[0], got)


class Read(torch.nn.Module):
    """Called, it is `prepend`, as `functional_call` wants it."""

    def __init__(self, prompt: OffsetPrompt) -> None:
        super().__init__()
        self.prompt = prompt

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        return self.prompt.prepend(text, mask=mask)


def test_gradients_are_those_of_finite_differences() -> None:
    module, mask = Read(moved()).double(), torch.tensor([[0, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    names, text = dict(module.named_parameters()), random(2, 6, 6, seed=7).double()
    inputs = [parameter.detach().clone().requires_grad_() for parameter in names.values()]

    def read(*values: Tensor) -> Tensor:
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (text, mask))

    assert torch.autograd.gradcheck(read, inputs)


def test_embeddings_keep_their_type() -> None:
    both = moved().prepend(random(2, 7, 6, seed=4).bfloat16())
    assert both.dtype == torch.bfloat16 and both.shape == (2, 9, 6)


@pytest.mark.parametrize(("length", "hidden", "positions", "rank"), [(100, 768, 256, 45), (16, 576, 64, 9)])
def test_no_more_parameters_train_than_in_prompt_tuning(length: int, hidden: int, positions: int, rank: int) -> None:
    dept = DePTConfig()
    assert dept.rank_of(length, hidden, positions) == rank
    prompt = OffsetPrompt(torch.zeros(dept.short(length), hidden), positions, rank)
    one_more = OffsetPrompt(torch.zeros(dept.short(length), hidden), positions, rank + 1)
    assert prompt.trainable_parameters() <= length * hidden < one_more.trainable_parameters()


def test_the_published_sizes_train_as_many_parameters_as_a_prompt_of_100_tokens() -> None:
    assert OffsetPrompt(torch.zeros(40, 768), 256, 45).trainable_parameters() == 76_800


def test_settings_of_length_and_rank() -> None:
    assert [DePTConfig(length=length).short(100) for length in (0.4, 0.001, 7)] == [40, 1, 7]
    assert DePTConfig(rank=3).rank_of(100, 768, 256) == 3
    assert DePTConfig(length=100).rank_of(100, 768, 256) == 1
    for wrong in (0, 1.5, -0.5):
        with pytest.raises(ValueError, match="length"):
            DePTConfig(length=wrong)
    with pytest.raises(ValueError, match=r"dept\.length=17 is above prompt_length=16; use a smaller length"):
        RunConfig(methods=("DePT",), dept={"length": 17})


def test_an_offset_of_zero_is_prompt_tuning_of_the_short_prompt(
    backbone: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    """B starts at 0 and stays there, up to its rate; prompt tuning starts at the first m rows of P_init."""
    settings: dict[str, Any] = {"target_learning_rate": 0.3, "max_grad_norm": 0}  # clipping would look at B as well
    ctx, target = context(
        backbone, tasks, tmp_path / "dept", dept={"length": 2, "offset_learning_rate": SLOW}, **settings
    )
    got = METHODS["DePT"].run(ctx, target)
    plain, _ = context(backbone, tasks, tmp_path / "pt", **settings)
    plain.start = ctx.start[:2]
    want = METHODS["PT"].run(plain, target)
    torch.testing.assert_close(got.prompt, want.prompt, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.history["loss"], want.history["loss"], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got.prompt, ctx.start[:2], atol=0.1)
    with torch.no_grad():
        untrained = OffsetPrompt(ctx.start[:2], 16, 3)
        batch = backbone.collate([[10, 11, 12], [13]])
        backbone.__dict__ |= {"reads_prompts_once": False, "packs_rows": False}  # the plain path for both
        assert torch.equal(backbone(untrained, batch).logits, backbone(SoftPrompt(ctx.start[:2]), batch).logits)
        del backbone.__dict__["reads_prompts_once"], backbone.__dict__["packs_rows"]


def test_training_is_adamw_on_the_literal_formula(backbone: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    """Rows are read one by one, without batches or any of the package's training."""
    ctx, target = context(
        backbone,
        tasks,
        tmp_path,
        target_learning_rate=0.05,
        dept={"length": 2, "rank": 3, "offset_learning_rate": 0.02},
        **NO_SCHEDULE,
    )
    result = METHODS["DePT"].run(ctx, target)
    assert (result.trainable_parameters, result.source_updates) == (2 * 16 + 3 * (16 + 16), 0)
    start = OffsetPrompt(ctx.start[:2], 16, 3, seed=ctx.seed)
    assert start.offset_a.abs().max() <= 3**-0.5 and start.offset_a.std() > 0.2 and not start.offset_b.any()
    short, a, b = leaves = [parameter.detach().clone().requires_grad_() for parameter in start.parameters()]
    groups = [{"params": [short], "lr": 0.05}, {"params": [a, b], "lr": 0.02}]
    optimizer = torch.optim.AdamW(groups, weight_decay=ctx.config.weight_decay)
    curve = []
    for batch in ctx.target_batches(target):
        losses = []
        for row in (target.train[index] for index in batch):
            answer = literal_answer_logits(backbone, Literal(*leaves), row.ids, row.answer)
            losses.append(torch.nn.functional.cross_entropy(answer, torch.tensor(row.answer)))
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    torch.testing.assert_close([loss for _, loss in result.history["loss"]], curve, rtol=1e-3, atol=1e-3)
    for got, want in zip(result.module.parameters(), leaves, strict=True):
        torch.testing.assert_close(got.detach(), want.detach(), rtol=1e-2, atol=1e-3)
    assert b.detach().abs().max() > 0.05  # the offset has learned something


def test_the_offset_is_on_the_text_and_never_on_the_answer(backbone: Backbone) -> None:
    """In training, for any length of answers; when answers are scored; and when they are generated."""
    prompt = moved(backbone.hidden_size)
    texts, answers = [(10, 11, 12, 13, 14), (15, 16), (17,)], [(44, 45, 2), (30, 2), (46, 2)]
    got = backbone(prompt, backbone.collate(texts, answers)).logits
    alone = Literal(*prompt.parameters())
    expected = [literal_answer_logits(backbone, alone, *each) for each in zip(texts, answers, strict=True)]
    torch.testing.assert_close(got, torch.cat(expected), rtol=1e-3, atol=1e-4)
    scores = Reader(backbone, prompt).answer_scores(texts, answers)
    for text, row in zip(texts, scores, strict=True):
        for answer, score in zip(answers, row, strict=True):
            logits = literal_answer_logits(backbone, alone, text, answer).log_softmax(dim=-1)
            want = logits.gather(1, torch.tensor(answer)[:, None]).mean()
            torch.testing.assert_close(score, want.detach(), rtol=1e-3, atol=1e-4)


def test_it_is_scored_as_a_module(backbone: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    ctx, target = context(backbone, tasks, tmp_path, target_learning_rate=0.3, dept={"offset_learning_rate": 0.3})
    result = METHODS["DePT"].run(ctx, target)
    evaluation = ctx.evaluate("test", target, result.evaluated)
    alone = Literal(*result.module.parameters())
    logits = [literal_answer_logits(backbone, alone, row, (4,))[0, list(target.answers)] for row in target.test]
    assert evaluation.predictions == torch.stack(logits)[..., 0].argmax(dim=1).tolist()
    assert torch.equal(result.prompt, result.module.short)
    with pytest.raises(TypeError, match="so it has no finished prompt"):
        result.module.composed()


def test_it_is_kept_whole_in_a_file(tmp_path: Path) -> None:
    prompt, file = moved(), tmp_path / "module.safetensors"
    write_tensors(file, prompt.tensors(), {"task": "goal"})
    again, card = read_trained(file)
    text = random(2, 7, 6, seed=4)
    assert isinstance(again, OffsetPrompt) and card == {"task": "goal"}
    assert torch.equal(again.prepend(text), prompt.prepend(text))
    with pytest.raises(ValueError, match=r"depends on the row \(DePT\) has no matrix"):
        read_prompt(file)
    write_tensors(file, prompt.tensors() | {"offset_b": torch.zeros(2, 6)}, {})
    with pytest.raises(ValueError, match=r"tensor 'offset_b': got \(2, 6\) .*, want finite numbers of shape \(3, 6\)"):
        read_trained(file)
    write_tensors(file, prompt.tensors() | {"short": torch.zeros(6)}, {})
    with pytest.raises(ValueError, match=r"want \(m, H\), \(S, r\) and \(r, H\)"):
        read_trained(file)


def test_a_stage_is_known_by_its_settings(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{}, {"length": 2}, {"rank": 2}, {"offset_learning_rate": 0.7}]
    prompts = []
    for settings in changes:
        ctx, target = context(llama, tasks, tmp_path, dept=settings)
        prompts.append(str(METHODS["DePT"].run(ctx, target).module.tensors()))
    assert len(set(prompts)) == len(changes)
