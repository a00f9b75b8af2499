"""The training loop: against a literal loop, resumed against uninterrupted, SVGD against gradient ascent."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from prompttransfer import RunConfig
from prompttransfer.files.durable import seal
from prompttransfer.interchange import read_prompt
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss
from prompttransfer.methods.sampler import row_batches
from prompttransfer.models import Backbone
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import GroupedPrompt, ParticlePrompts, PromptModule, SoftPrompt, initial_prompt
from prompttransfer.training.divergence import Diverged
from prompttransfer.training.plan import SCHEDULES, Plan, rate_factor
from prompttransfer.training.trainer import last_checkpoint, train

ROWS = [
    EncodedRow(tuple(8 + (index * 5 + place) % 40 for place in range(2 + index % 4)), (4 + index % 2,))
    for index in range(12)
]


def soft(backbone: Backbone) -> SoftPrompt:
    return SoftPrompt(initial_prompt(backbone, 3))


def plan(prompt: PromptModule, updates: int = 8, **more) -> Plan:
    batches = row_batches(len(ROWS), 4, updates, seed=1)
    return Plan(prompt, more.pop("objective", task_loss), ROWS, batches, 0.05, **more)


def test_training_is_adamw_with_clipping_warm_up_and_linear_decay(backbone: Backbone, tmp_path: Path) -> None:
    prompt = soft(backbone)
    log = train(backbone, plan(prompt, warmup_updates=2, weight_decay=0.1), tmp_path)
    expected = soft(backbone)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=0.05, weight_decay=0.1)
    losses = []
    for update, batch in enumerate(row_batches(len(ROWS), 4, 8, seed=1)):
        optimizer.param_groups[0]["lr"] = 0.05 * ((update + 1) / 3 if update < 2 else (8 - update) / 6)
        rows = [ROWS[index] for index in batch]
        logits = backbone(expected, backbone.collate([row.ids for row in rows])).logits
        loss = F.cross_entropy(logits, torch.tensor([row.answer[0] for row in rows]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    torch.testing.assert_close(prompt.prompt, expected.prompt, rtol=1e-4, atol=1e-5)
    assert [update for update, _ in log.loss] == list(range(1, 9))
    torch.testing.assert_close([loss for _, loss in log.loss], losses, rtol=1e-3, atol=1e-3)
    assert (log.updates, log.examples) == (8, 32)


def kinds(backbone: Backbone) -> dict[str, tuple[PromptModule, dict]]:
    start = initial_prompt(backbone, 3)
    noise = torch.randn(3, 3, 16, generator=torch.Generator().manual_seed(0))
    particles = ParticlePrompts(start + 0.1 * noise, start)
    grouped = GroupedPrompt(start, start + noise, start + noise[0], grouping="fixed")
    svgd = {
        "objective": ParticleLoss([1.0], 50.0),
        "before_step": lambda: particles.turn_gradient(50.0),
        "max_grad_norm": 0.0,
    }
    return {"soft": (soft(backbone), {}), "particles": (particles, svgd), "grouped": (grouped, {})}


@pytest.mark.parametrize("kind", ["soft", "particles", "grouped"])
def test_a_prompt_read_once_trains_like_one_read_with_every_row(llama: Backbone, tmp_path: Path, kind: str) -> None:
    once, more = kinds(llama)[kind]
    assert llama.reads_prompts_once
    first = train(llama, plan(once, **more), tmp_path / "once")
    llama.reads_prompts_once = False
    every, more = kinds(llama)[kind]
    second = train(llama, plan(every, **more), tmp_path / "every")
    torch.testing.assert_close(
        [loss for _, loss in first.loss], [loss for _, loss in second.loss], rtol=1e-5, atol=1e-5
    )
    for name, tensor in once.state_dict().items():
        torch.testing.assert_close(tensor, every.state_dict()[name], rtol=1e-3, atol=1e-4)


class Stop(Exception):
    pass


@pytest.mark.parametrize("kind", ["soft", "particles", "grouped"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(llama: Backbone, tmp_path: Path, kind: str) -> None:
    whole, more = kinds(llama)[kind]
    whole_log = train(llama, plan(whole, **more), tmp_path / "whole", checkpoint_updates=3)

    seen = 0

    def stop_in_the_fifth(_: int, **__: float) -> None:
        nonlocal seen
        seen += 1
        if seen == 5:
            raise Stop

    first, more = kinds(llama)[kind]
    with pytest.raises(Stop):
        train(llama, plan(first, **more), tmp_path / "cut", checkpoint_updates=3, advance=stop_in_the_fifth)
    again, more = kinds(llama)[kind]
    advanced: list[int] = []
    log = train(
        llama, plan(again, **more), tmp_path / "cut", checkpoint_updates=3, advance=lambda n, **_: advanced.append(n)
    )
    assert advanced == [3, 1, 1, 1, 1, 1]  # resumes after the checkpoint of update 3
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert log.loss == whole_log.loss
    assert again.history() == whole.history()


def test_checkpoints_hold_the_prompt_only(llama: Backbone, tmp_path: Path) -> None:
    train(llama, plan(soft(llama)), tmp_path, checkpoint_updates=4)
    checkpoint = tmp_path / "checkpoint-8"
    assert {name: tuple(t.shape) for name, t in load_file(checkpoint / "prompt.safetensors").items()} == {
        "prompt": (3, 16)
    }
    assert not list(checkpoint.glob("model*")) and not list(checkpoint.glob("pytorch_model*"))
    assert json.loads((checkpoint / "history.json").read_text())["seconds"] > 0


def test_one_particle_without_prior_is_prompt_tuning(llama: Backbone, tmp_path: Path) -> None:
    tuned = soft(llama)
    train(llama, plan(tuned, max_grad_norm=0.0), tmp_path / "pt")
    start = initial_prompt(llama, 3)
    particle = ParticlePrompts(start[None], start)
    svgd = {"objective": ParticleLoss([1.0], 64.0), "before_step": lambda: particle.turn_gradient(64.0)}
    train(llama, plan(particle, max_grad_norm=0.0, **svgd), tmp_path / "svgd")
    torch.testing.assert_close(particle.composed(), tuned.composed(), rtol=1e-5, atol=1e-6)


def test_dtvg_with_all_source_scales_zero_is_prompt_tuning(llama: Backbone, tmp_path: Path) -> None:
    tuned = soft(llama)
    train(llama, plan(tuned), tmp_path / "pt")
    start = initial_prompt(llama, 3)
    sources = start + torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    grouped = GroupedPrompt(start, sources, start)
    with torch.no_grad():
        grouped.source_scale.zero_()
    groups = grouped.parameter_groups(0.05, 0.0, 0.0)
    for parameter in (grouped.target_scale, grouped.source_scale):
        parameter.requires_grad_(False)  # else their gradients take part in the clipping
    train(llama, plan(grouped, groups=groups), tmp_path / "dtvg")
    torch.testing.assert_close(grouped.composed(), tuned.composed(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fifth", ["loss", "gradient"])
def test_a_run_that_diverges_keeps_the_last_good_prompt(llama: Backbone, tmp_path: Path, fifth: str) -> None:
    """The fifth loss is not finite, or its gradient is not, which shows at the sixth update."""
    seen = []

    def objective(backbone: Backbone, prompt: PromptModule, batch: dict) -> torch.Tensor:
        seen.append(prompt.composed())
        loss = task_loss(backbone, prompt, batch)
        if len(seen) != 5:
            return loss
        if fifth == "gradient":
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss * (float("nan") if fifth == "loss" else 1.0)

    prompt = soft(llama)
    with pytest.raises(Diverged, match=r"lower the learning rate \(now 0.05\)") as stopped:
        train(llama, plan(prompt, objective=objective), tmp_path)
    update, good = {"loss": (5, 3), "gradient": (6, 4)}[fifth]
    assert f"the loss is nan at update {update}; " in str(stopped.value)
    kept, metadata = read_prompt(tmp_path / "last-good.safetensors")
    assert str(stopped.value).endswith(f"of update {good}: {tmp_path / 'last-good.safetensors'}")
    assert torch.equal(kept, seen[good]) and torch.equal(prompt.composed(), kept) and metadata["updates"] == str(good)


def test_a_prompt_that_the_last_update_spoils_is_no_result(llama: Backbone, tmp_path: Path) -> None:
    prompt = soft(llama)

    def spoil() -> None:
        updates.append(1)
        if len(updates) == 8:
            prompt.prompt.grad.fill_(float("nan"))

    updates: list[int] = []
    with pytest.raises(Diverged, match="the prompt is not finite after update 8"):
        train(llama, plan(prompt, before_step=spoil), tmp_path)
    assert prompt.composed().isfinite().all()


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path: Path) -> None:
    for update, complete in ((2, True), (4, True), (6, False)):
        folder = tmp_path / f"checkpoint-{update}"
        folder.mkdir()
        (folder / "prompt.safetensors").write_text(f"prompt of update {update}")
        (folder / "trainer_state.json").touch()
        if complete:
            seal(folder)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-4")
    assert not (tmp_path / "checkpoint-6").exists()
    (tmp_path / "checkpoint-4" / "prompt.safetensors").write_text("prompt of update 3")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-2" / "trainer_state.json").unlink()
    assert last_checkpoint(tmp_path) is None and not list(tmp_path.iterdir())
    assert last_checkpoint(tmp_path / "nothing") is None


def test_the_settings_name_every_schedule() -> None:
    assert get_args(RunConfig.model_fields["schedule"].annotation) == tuple(SCHEDULES)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_update_has_a_rate(schedule: str) -> None:
    factors = [rate_factor(schedule, 2, 10)(update) for update in range(10)]
    assert all(factor > 0 for factor in factors) and max(factors) == 1.0 == factors[2]
    half = {"linear": 0.5, "cosine": 0.5, "constant_with_warmup": 1.0}
    assert factors[6] == pytest.approx(half[schedule])
    assert factors[4] == pytest.approx({"cosine": (1 + math.cos(math.pi / 4)) / 2, "linear": 0.75}.get(schedule, 1.0))
