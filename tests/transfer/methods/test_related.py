"""Related sources: the sign-flip test, and that a method that nothing joins is prompt tuning bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recipes import batch_of, context, random

from prompttransfer import RunConfig
from prompttransfer.files.store import StageResult
from prompttransfer.methods import METHODS
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.related import FirstUpdates, first_updates, join_weight, sign_test
from prompttransfer.methods.shared import source_prompts
from prompttransfer.models import Backbone
from prompttransfer.prompts import FrozenPrompts, JoinedPrompt, SoftPrompt, average_factors
from prompttransfer.tasks.task import Task
from prompttransfer.training.history import Related
from prompttransfer.training.trainer import train

ALL, NONE = -1.0, 1.0  # levels of the test that every source passes, and that none passes (except a copy of the target)
RELATED = {
    "DTVG": {"transfer_from": "related"},
    "MPT": {"transfer_from": "related"},
    "BMTPT": {"transfer_from": "related", "bmtpt": {"particles": 2}},
}


def level(value: float, close: float = 2.0) -> dict[str, dict[str, float]]:
    return {"related": {"level": value, "own_fraction": 0.34, "close": close}}


# the test


def after(test: Related) -> FirstUpdates:
    return FirstUpdates(test, torch.empty(0, 0), StageResult({}), [])


def test_z_is_its_formula_and_the_level_a_share_of_its_largest_value() -> None:
    start, own, sources = random(5, 7), random(5, 7, seed=1), random(3, 5, 7, seed=2)
    sources[1] = start + 2 * (own - start)
    got = sign_test(own, sources, start, 0.5, ["a", "b", "c"])
    for place, source in enumerate(sources.double()):
        p = [float((source[i] - start[i].double()) @ (own[i] - start[i]).double()) for i in range(5)]
        assert got["z"][place] == pytest.approx(sum(p) / math.sqrt(sum(value * value for value in p)), rel=1e-5)
    assert got["level"] == pytest.approx(0.5 * math.sqrt(5))
    related = after(got).related
    assert related == [place for place in range(3) if got["z"][place] >= 0.5 * math.sqrt(5)]
    assert 1 in related and got["cosine"][1] == pytest.approx(1, rel=1e-5)


def test_signs_by_chance_do_not_pass() -> None:
    start, own = random(100, 16), random(100, 16, seed=1)
    sources = torch.stack([random(100, 16, seed=seed) for seed in range(2, 42)])
    z = torch.tensor(sign_test(own, sources, start, 0.75, [])["z"])
    # All vectors hold -start, so they agree; around 0 they do not.
    free = torch.tensor(sign_test(own, sources, torch.zeros_like(start), 0.75, [])["z"])
    assert z.min() > 3 and free.abs().max() < 3.5 and free.std() == pytest.approx(1, abs=0.35)


def test_what_is_said_of_the_test() -> None:
    start, own = random(4, 3), random(4, 3, seed=1)
    sources = torch.stack([own, 2 * start - own])
    both = after(sign_test(own, sources, start, 0.75, ["red", "green"]))
    none = after(sign_test(own, sources[1:], start, 0.75, ["green"]))
    assert both.note.startswith("related: red (z ") and "green" not in both.note
    assert none.note == "no related source: prompt tuning"


# no related source


@pytest.mark.parametrize("method", RELATED)
def test_without_a_related_source_a_method_is_prompt_tuning_bit_for_bit(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, method: str
) -> None:
    ctx, target = context(llama, tasks, tmp_path, methods=("PT", method), **level(NONE), **RELATED[method])
    alone, got = METHODS["PT"].run(ctx, target), METHODS[method].run(ctx, target)
    assert torch.equal(got.prompt, alone.prompt)
    assert got.history["loss"] == alone.history["loss"]
    assert (got.target_updates, got.target_examples) == (alone.target_updates, alone.target_examples)
    assert got.notes == "no related source: prompt tuning" and got.source_updates > 0


@pytest.mark.parametrize("method", RELATED)
def test_prompt_tuning_keeps_its_own_rate_then(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, method: str
) -> None:
    rates = {"PT": {"target_learning_rate": 0.05}, method: {"target_learning_rate": 0.001}}
    ctx, target = context(
        llama, tasks, tmp_path, methods=("PT", method), per_method=rates, **level(NONE), **RELATED[method]
    )
    alone = METHODS["PT"].run(ctx.of(target, "PT"), target)
    assert torch.equal(METHODS[method].run(ctx.of(target, method), target).prompt, alone.prompt)


# related sources


def test_sources_that_join_at_weight_0_leave_the_loss_where_it_was(llama: Backbone) -> None:
    start, own = random(3, 16), random(3, 16, seed=1)
    prompt = JoinedPrompt(start, own, random(2, 3, 16, seed=2), 0.0)
    loss = task_loss(llama, prompt, batch_of(llama))
    with torch.no_grad():
        assert torch.equal(loss, task_loss(llama, SoftPrompt(own), batch_of(llama)))
    loss.backward()
    assert prompt.source_scale.grad.abs().min() > 0


@pytest.mark.parametrize(("scaling", "scales"), [("per-token", 3), ("scalar", 1)])
def test_vectors_are_merged_by_their_scales(scaling: str, scales: int) -> None:
    start, own, sources = random(3, 16), random(3, 16, seed=1), random(2, 3, 16, seed=2)
    scale = random(2, scales, seed=4)
    prompt = JoinedPrompt(start, own, sources, 0.0, scaling=scaling)
    assert torch.equal(prompt.composed(), own) and prompt.source_scale.shape == scale.shape
    prompt.source_scale.data.copy_(scale)
    vectors = sources.double() - start.double()
    want = own.double() + sum(scale[k].double()[:, None] * vectors[k] for k in range(2))
    torch.testing.assert_close(prompt.composed().double(), want, rtol=1e-6, atol=1e-6)


def test_sources_join_at_a_share_of_their_mean() -> None:
    start, own, sources = random(3, 16), random(3, 16, seed=1), random(2, 3, 16, seed=2)
    prompt = JoinedPrompt(start, own, sources, 0.25)
    vectors = sources.double() - start.double()
    want = start.double() + 0.75 * (own.double() - start.double()) + 0.25 * vectors.mean(dim=0)
    torch.testing.assert_close(prompt.composed().double(), want, rtol=1e-5, atol=1e-6)


JOINING = {"DTVG": 3, "MPT": 1, "BMTPT": 1}  # prompts that join: those of the sources, or one built from them


@pytest.mark.parametrize("method", RELATED)
def test_prompt_tuning_continues_after_the_sources_have_joined(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr("prompttransfer.methods.related.join_weight", lambda *rest: (0.5, 2))
    ctx, target = context(llama, tasks, tmp_path, methods=("PT", method), **level(ALL), **RELATED[method])
    got, alone = METHODS[method].run(ctx.of(target, method), target), METHODS["PT"].run(ctx.of(target, "PT"), target)
    assert got.history["loss"][:2] == alone.history["loss"][:2] and not torch.equal(got.prompt, alone.prompt)
    # Two updates tune, the batches of two are read by the search, two are left.
    assert len(got.history["loss"]) == 4 and got.target_updates == 6 == alone.target_updates
    assert got.target_examples == alone.target_examples
    assert got.trainable_parameters == 3 * llama.hidden_size + 3 * JOINING[method]
    assert got.history["related"]["names"] == ["red", "green", "blue"]
    if method == "DTVG":
        assert got.history["groups"] == [(update, ["red", "green", "blue"]) for update in (3, 4)]


def test_the_loss_does_not_jump_where_sources_join(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    weights = (0.25, 0.5, 0.75, 1.0)
    related = {"related": level(ALL)["related"] | {"join_weights": weights}}
    ctx, target = context(llama, tasks, tmp_path, methods=("DTVG",), target_updates=12, **related, **RELATED["DTVG"])
    first = first_updates(ctx, target)
    sources = torch.stack(source_prompts(ctx))
    weight, spent = join_weight(ctx, target, first, sources)
    rows = [target.train[row] for batch in first.batches[:2] for row in batch]
    batch = llama.collate([row.ids for row in rows], [row.answer for row in rows])
    batch["task_ids"] = torch.zeros(len(rows), dtype=torch.int64)

    def loss(share: float) -> float:
        prompt = (1 - share) * first.prompt + share * sources.mean(dim=0)
        return float(task_loss(llama, FrozenPrompts(prompt[None]), batch))

    assert spent == 4  # 4 weights and none on 2 batches, forward only
    assert weight == max((share for share in weights if loss(share) <= loss(0)), default=0) and weight > 0
    assert join_weight(ctx, target, replace(first, batches=first.batches[:4]), sources) == (0.0, 0)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of prompts whose loss was computed. Every weight above 0 raises it."""
    seen: list[int] = []

    def raised(ctx: object, prompts: torch.Tensor, target: object, title: str) -> list[float]:
        seen.append(len(prompts))
        return [1.0] + [1.1] * (len(prompts) - 1)

    monkeypatch.setattr("prompttransfer.methods.related.training_losses", raised)
    return seen


@pytest.mark.parametrize("method", RELATED)
def test_if_nothing_may_join_a_method_is_prompt_tuning_bit_for_bit(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, tried: list[int], method: str
) -> None:
    ctx, target = context(
        llama, tasks, tmp_path, methods=("PT", method), target_updates=12, **level(ALL), **RELATED[method]
    )
    got = METHODS[method].run(ctx.of(target, method), target)
    tuning = ctx.of(target, "PT")
    batches, prompt = tuning.target_batches(target), SoftPrompt(ctx.start)
    plan = tuning.plan(prompt, task_loss, target.train, batches, tuning.config.target_rate)
    train(llama, plan, tmp_path / "work")
    assert tried == [3] and torch.equal(got.prompt, prompt.prompt.detach()) and "own" not in got.other_prompts
    assert (got.target_updates, got.target_examples) == (12, sum(map(len, batches)))
    assert got.trainable_parameters == prompt.prompt.numel() and len(got.history["loss"]) == 12
    assert got.notes.startswith("related: red (z ") and got.notes.endswith("; joined at 0") and got.source_updates > 0
    assert all(not merged for _, merged in got.history.get("groups", []))


@pytest.mark.parametrize("method", RELATED)
def test_training_goes_on_from_a_close_source_that_raises_the_loss(
    llama: Backbone,
    tasks: dict[str, Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tried: list[int],
    method: str,
) -> None:
    """By plain prompt tuning at PT's rate; the search is paid."""
    settings = {
        "target_updates": 12,
        "per_method": {"PT": {"target_learning_rate": 0.05}, method: {"target_learning_rate": 0.001}},
        **RELATED[method],
    }
    ctx, target = context(llama, tasks, tmp_path, methods=("PT", method), **level(ALL), **settings)
    highest = max(first_updates(ctx, target).test["z"]) / math.sqrt(3)
    ctx, target = context(llama, tasks, tmp_path, methods=("PT", method), **level(ALL, highest - 1e-4), **settings)
    seen = joins(monkeypatch)
    got = METHODS[method].run(ctx.of(target, method), target)
    tuning = ctx.of(target, "PT")
    batches, prompt = tuning.target_batches(target), SoftPrompt(seen[0].mean(dim=0))
    plan = tuning.plan(prompt, task_loss, target.train, batches[6:], 0.05, horizon=12, offset=4)
    train(llama, plan, tmp_path / "work")
    torch.testing.assert_close(got.prompt, prompt.prompt.detach(), rtol=0, atol=0)
    assert (got.target_updates, got.target_examples) == (12, sum(map(len, batches)))
    assert got.trainable_parameters == prompt.prompt.numel() and got.notes.endswith("; trained on")
    ctx, target = context(llama, tasks, tmp_path, methods=("PT", method), **level(ALL, highest + 1e-4), **settings)
    assert METHODS[method].run(ctx.of(target, method), target).notes.endswith("; joined at 0")


def test_no_training_goes_on_from_a_source_without_a_search(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    """Four batches are left, as many as the search would cost with four weights."""
    related = {"related": level(ALL, ALL)["related"] | {"join_weights": (0.25, 0.5, 0.75, 1.0)}}
    ctx, target = context(llama, tasks, tmp_path, methods=("DTVG",), target_updates=6, **related, **RELATED["DTVG"])
    assert METHODS["DTVG"].run(ctx, target).notes.endswith("; joined at 0")


@pytest.mark.parametrize(("epochs", "updates"), [(0.1, 1), (0.2, 2), (0.4, 3), (2, 4)])
def test_first_updates_are_a_share_of_the_budget_and_few_epochs(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, epochs: float, updates: int
) -> None:
    related = {"related": level(ALL)["related"] | {"own_epochs": epochs}}
    ctx, target = context(llama, tasks, tmp_path, methods=("DTVG",), target_updates=12, **related, **RELATED["DTVG"])
    assert len(target.train) == 30 and ctx.config.batch_size == 4
    first = first_updates(ctx, target)
    assert (first.stage.facts["updates"], len(first.batches)) == (updates, 12 - updates)


@pytest.mark.parametrize(("trained", "moves"), [("scales", False), ("both", True)])
def test_the_own_prompt_rests_once_something_has_joined(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, trained: str, moves: bool
) -> None:
    related = {"related": level(ALL)["related"] | {"trained": trained, "join_weights": (0.5,)}}
    ctx, target = context(llama, tasks, tmp_path, methods=("DTVG",), target_updates=12, **related, **RELATED["DTVG"])
    first = first_updates(ctx, target)
    weight, _ = join_weight(ctx, target, first, torch.stack(source_prompts(ctx)))
    result = METHODS["DTVG"].run(ctx, target)
    left = torch.lerp(first.prompt, ctx.start, weight)
    assert weight == 0.5
    assert torch.allclose(result.other_prompts["own"], left, atol=1e-6) is not moves
    plain = left + weight * (torch.stack(source_prompts(ctx)).mean(dim=0) - ctx.start)
    assert not torch.allclose(result.prompt, plain, atol=1e-4)


def joins(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The prompts that a method lets join, recorded as it runs."""
    from prompttransfer.methods import related

    seen: list[torch.Tensor] = []
    original = related.joined

    def joined(ctx: object, target: object, first: object, prompts: torch.Tensor, title: str, **more: object) -> object:
        seen.append(prompts)
        return original(ctx, target, first, prompts, title, **more)

    monkeypatch.setattr(related, "joined", joined)
    return seen


def test_mpt_lets_join_what_the_factors_of_related_sources_compose(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prompttransfer.methods import mpt

    ctx, target = context(llama, tasks, tmp_path, methods=("MPT",), **level(ALL), **RELATED["MPT"])
    z = first_updates(ctx, target).test["z"]
    between = (sorted(z)[0] + sorted(z)[1]) / 2 / math.sqrt(3)  # all but the least alike
    kept = [place for place, value in enumerate(z) if value > min(z)]
    ctx, target = context(llama, tasks, tmp_path, methods=("MPT",), **level(between), **RELATED["MPT"])
    seen = joins(monkeypatch)
    result = METHODS["MPT"].run(ctx, target)
    joint, _, updates = mpt.source_stage(ctx)
    u, v = average_factors(joint.u.detach()[kept], joint.v.detach()[kept])
    want = joint.shared.double() * (u[0].double() @ v[0].double())
    torch.testing.assert_close(seen[0], want[None].float().detach(), rtol=1e-5, atol=1e-6)
    assert result.source_updates == updates


def test_bmtpt_lets_join_the_posterior_of_related_sources(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prompttransfer.methods import bmtpt

    ctx, target = context(llama, tasks, tmp_path, methods=("BMTPT",), **level(ALL), **RELATED["BMTPT"])
    z = first_updates(ctx, target).test["z"]
    between = (sorted(z)[0] + sorted(z)[1]) / 2 / math.sqrt(3)  # all but the least alike
    kept = [name for name, value in zip(ctx.config.sources, z, strict=True) if value > min(z)]
    ctx, target = context(llama, tasks, tmp_path, methods=("BMTPT",), **level(between), **RELATED["BMTPT"])
    seen = joins(monkeypatch)
    got = METHODS["BMTPT"].run(ctx, target)
    few, _ = context(llama, tasks, tmp_path, methods=("BMTPT",), sources=kept, bmtpt={"particles": 2})
    few.start = ctx.start
    posterior, _ = bmtpt.source_stage(few)
    for place, particle in enumerate(posterior.particles.detach()):
        assert torch.equal(got.other_prompts[f"particle{place}"], particle)
    torch.testing.assert_close(seen[0], posterior.particles.detach().mean(dim=0, keepdim=True))


def test_the_prompts_of_sources_are_trained_where_the_test_needs_them(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    ctx, _ = context(llama, tasks, tmp_path, methods=("BMTPT",), **RELATED["BMTPT"])
    assert ctx.config.source_prompts and len(source_prompts(ctx)) == 3
    assert not context(llama, tasks, tmp_path, methods=("BMTPT",))[0].config.source_prompts


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"dtvg": {"ablation": "no-grouping"}}, "dtvg.grouping='all'"),
        ({"mpt": {"trained": "shared"}}, "mpt.trained='shared'"),
        ({"bmtpt": {"beta": 0.5, "rank": 2}}, "bmtpt.rank=2, bmtpt.beta=0.5"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(settings: dict[str, object], setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting}: has no effect if transfer_from is 'related'"):
        RunConfig(methods=("MPT", "BMTPT", "DTVG"), **settings)
    RunConfig(methods=("MPT", "BMTPT", "DTVG"), transfer_from="all", **settings)


def test_scales_are_what_trains_from_related_sources() -> None:
    with pytest.raises(ValueError, match=r"dtvg\.scaling='none' leaves nothing to train"):
        RunConfig(methods=("DTVG",), dtvg={"scaling": "none"})
    RunConfig(methods=("DTVG",), transfer_from="all", dtvg={"scaling": "none"})


def test_a_published_variant_uses_all_sources() -> None:
    assert RunConfig().transfer_from == "related" and RunConfig(variant="code").transfer_from == "all"
    assert RunConfig(variant="paper", transfer_from="related", methods=("MPT",)).transfer_from == "related"
