"""PANDA: the most similar source prompt teaches on the target, weighted by the similarity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from literal import literal_answer_logits
from recipes import context
from torch import Tensor

import promptkernels as pk
from prompttransfer import RunConfig
from prompttransfer.methods import METHODS, Context
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.shared import source_prompts
from prompttransfer.models import Backbone
from prompttransfer.prompts import SoftPrompt
from prompttransfer.tasks.task import Task

NO_SCHEDULE: dict[str, Any] = {"schedule": "constant_with_warmup", "warmup_updates": 0, "max_grad_norm": 0}


class Fixed:
    """Interface of a prompt for the literal forward, with its own graph."""

    def __init__(self, prompt: Tensor) -> None:
        self.prompt = prompt

    def prepend(self, embeds: Tensor, task_ids: Tensor) -> Tensor:
        return torch.cat([self.prompt[None], embeds], dim=1)


def cosines(ctx: Context, own: Tensor) -> list[float]:
    """Cosines of the target's task vector with those of the sources, in float64."""
    vectors = [(prompt - ctx.start).double().numpy().ravel() for prompt in (own, *source_prompts(ctx))]
    return [float(vectors[0] @ each / np.linalg.norm(vectors[0]) / np.linalg.norm(each)) for each in vectors[1:]]


@pytest.mark.parametrize("start", ["p_init", "source"])
def test_training_is_adamw_on_the_literal_formula(
    backbone: Backbone, tasks: dict[str, Task], tmp_path: Path, start: str
) -> None:
    """Rows are read one by one, without batches or any of the package's training."""
    panda = {"start": start, "distillation": 3.0, "temperature": 2.0}
    ctx, target = context(
        backbone, tasks, tmp_path, learning_rate=0.3, target_learning_rate=0.05, panda=panda, **NO_SCHEDULE
    )
    result = METHODS["PANDA"].run(ctx, target)
    own = result.other_prompts["own"]
    similarity = cosines(ctx, own)
    best = int(np.argmax(similarity))
    weight = 3.0 * similarity[best]
    assert weight > 0.01
    note = f"taught by {ctx.sources[best].name} (cosine {similarity[best]:.3f}, weight {weight:.3f})"
    assert result.notes == note
    teacher = Fixed(source_prompts(ctx)[best])
    prompt = (ctx.start if start == "p_init" else teacher.prompt).clone().requires_grad_()
    optimizer = torch.optim.AdamW([prompt], lr=0.05, weight_decay=ctx.config.weight_decay)
    curve = []
    for batch in ctx.target_batches(target)[3:]:
        losses = []
        for row in (target.train[index] for index in batch):
            student = literal_answer_logits(backbone, Fixed(prompt), row.ids, row.answer)
            with torch.no_grad():
                taught = literal_answer_logits(backbone, teacher, row.ids, row.answer)
            for q, p, token in zip(student.double(), taught.double(), row.answer, strict=True):
                q_soft, p_soft = ((each / 2).exp() / (each / 2).exp().sum() for each in (q, p))
                kl = (p_soft * (p_soft.log() - q_soft.log())).sum()
                losses.append(q.exp().sum().log() - q[token] + weight * kl)
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    torch.testing.assert_close([loss for _, loss in result.history["loss"]][3:], curve, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(result.prompt, prompt.detach(), rtol=1e-3, atol=1e-3)
    assert (result.target_updates, result.target_examples, result.source_updates) == (6, 24, 12)
    assert result.module is None  # a plain matrix, to be exported


@pytest.mark.parametrize("reason", ["no weight", "no similar source"])
def test_without_a_teacher_it_is_prompt_tuning(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "no similar source":
        monkeypatch.setattr(pk, "task_similarity", lambda *_, others: -torch.ones(1, len(others)))
        monkeypatch.setattr("prompttransfer.methods.shared.similarity_history", lambda *_: {"names": [], "matrix": []})
    ctx, target = context(llama, tasks, tmp_path, panda={"distillation": 0.0 if reason == "no weight" else 1.0})
    result = METHODS["PANDA"].run(ctx, target)
    assert result.notes.endswith("weight 0.000)")
    prompt = SoftPrompt(ctx.start)
    batches = ctx.target_batches(target)[3:]
    ctx.run("plain", ctx.plan(prompt, task_loss, target.train, batches, ctx.config.target_rate, [target]))
    assert torch.equal(result.prompt, prompt.composed())


def test_a_stage_is_known_by_its_settings(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"start": "source"},
        {"distillation": 9.0},
        {"distillation": 9.0, "temperature": 5.0},
        {"own_fraction": 0.3},
    ]
    prompts = []
    for settings in changes:
        ctx, target = context(llama, tasks, tmp_path, learning_rate=0.3, panda=settings)
        prompts.append(METHODS["PANDA"].run(ctx, target).prompt.tolist())
    assert all(prompts.count(prompt) == 1 for prompt in prompts)


def test_both_stages_need_updates() -> None:
    with pytest.raises(ValueError, match=r"panda\.own_fraction=0\.01 leaves a stage of PANDA without updates"):
        RunConfig(methods=("PANDA",), panda={"own_fraction": 0.01})
