"""BMTPT: the particles' posterior, the priors fitted to them, the recipe."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from literal import literal_answer_logits, literal_logits
from recipes import batch_of, context, random

import promptkernels as pk
from prompttransfer import RunConfig
from prompttransfer.methods import METHODS, Context
from prompttransfer.methods.bmtpt import (
    aggregate,
    source_batches,
    source_stage,
    start_particles,
    target_prompt,
)
from prompttransfer.methods.choosing import training_losses
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss, PriorLoss, gaussian_penalty, mixture_penalty
from prompttransfer.models import Backbone
from prompttransfer.prompts import ParticlePrompts, SoftPrompt
from prompttransfer.tasks.task import Task


def test_particle_loss_scores_each_particle_on_all_rows(llama: Backbone) -> None:
    batch = batch_of(llama)
    start = random(3, 16)
    prompt = ParticlePrompts(random(2, 3, 16, seed=1), start)
    got = ParticleLoss([0.5, 0.5], 10.0, prior_std=2.0)(llama, prompt, batch)
    expected = []
    for particle in prompt.particles:
        logits = llama(SoftPrompt(particle), batch).logits
        losses = torch.nn.functional.cross_entropy(logits, batch["labels"][:, 0], reduction="none")
        by_source = 0.5 * (losses[0] + losses[2]) / 2 + 0.5 * losses[1]
        expected.append(by_source + (particle - start).square().sum() / (2 * 4 * 10))
    torch.testing.assert_close(got, torch.stack(expected).mean(), rtol=1e-4, atol=1e-5)


def test_priors_are_the_literal_densities() -> None:
    particles, theta = random(3, 2, 4), random(2, 4, seed=1)
    std = particles.std(dim=0, unbiased=False).clamp(min=0.5)
    normal = torch.distributions.Normal(particles.mean(dim=0), std)
    # Up to a constant: compare differences between two points.
    penalty = gaussian_penalty(particles, 0.5)
    expected = -(normal.log_prob(theta) - normal.log_prob(2 * theta)).sum()
    torch.testing.assert_close(penalty(theta) - penalty(2 * theta), expected, rtol=1e-4, atol=1e-4)
    mixture = mixture_penalty(particles, 0.5)
    variance = particles.var(dim=0, unbiased=False).mean().clamp(min=0.25)
    density = torch.stack([torch.exp(-(theta - p).square().sum() / (2 * variance)) for p in particles]).mean()
    torch.testing.assert_close(mixture(theta), -density.log(), rtol=1e-4, atol=1e-4)
    mean_distance = torch.stack([(theta - p).square().sum() for p in particles]).mean() / (2 * variance)
    assert mixture(theta) <= mean_distance  # Jensen


def test_a_wide_prior_or_no_strength_is_the_plain_task_loss(llama: Backbone) -> None:
    batch, prompt = batch_of(llama), SoftPrompt(random(3, 16))
    plain = task_loss(llama, prompt, batch)
    particles = random(2, 3, 16, seed=1)
    torch.testing.assert_close(PriorLoss(gaussian_penalty(particles, 0.1), 0.0)(llama, prompt, batch), plain)
    torch.testing.assert_close(PriorLoss(gaussian_penalty(particles, 1e6), 1.0)(llama, prompt, batch), plain)
    assert PriorLoss(gaussian_penalty(particles, 0.1), 1.0)(llama, prompt, batch) > plain


def test_particles_start_around_p_init_and_read_all_sources() -> None:
    start = random(3, 16)
    particles = start_particles(start, 4, 0.2, seed=0)
    assert torch.equal(particles[0], start)
    assert (particles[1:] - start).std() == pytest.approx(0.2 * start.std().item(), rel=0.2)
    batches = source_batches([10, 10, 10], 4, 30, seed=0)
    counts = Counter(row // 10 for batch in batches for row in batch)
    assert set(counts.values()) == {40}
    assert all({row // 10 for row in batch} == {0, 1, 2} for batch in batches)


@pytest.mark.parametrize("off", [{"beta": 0.0}, {"prior": "none"}])
def test_a_full_prompt_without_prior_is_prompt_tuning_from_the_particle_mean(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, off: dict
) -> None:
    ctx, target = context(llama, tasks, tmp_path / "bmtpt", bmtpt={"parametrisation": "full"} | off)
    result = METHODS["BMTPT"].run(ctx, target)
    particles = [result.other_prompts[f"particle{index}"] for index in range(4)]
    ctx, target = context(llama, tasks, tmp_path / "pt")
    ctx.start = torch.stack(particles).mean(dim=0)
    assert torch.equal(result.prompt, METHODS["PT"].run(ctx, target).prompt)


@pytest.mark.parametrize("parametrisation", ["full", "factored"])
@pytest.mark.parametrize("prior", ["gaussian", "mixture"])
def test_a_strong_prior_holds_the_prompt_at_the_particles(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, prior: str, parametrisation: str
) -> None:
    away = {}
    for beta in (0.0, 1e4):
        settings = {"prior": prior, "beta": beta, "parametrisation": parametrisation, "spread": 0.01}
        ctx, target = context(llama, tasks, tmp_path / str(beta), bmtpt=settings, target_learning_rate=0.1)
        result = METHODS["BMTPT"].run(ctx, target)
        particles = torch.stack([result.other_prompts[f"particle{index}"] for index in range(4)])
        away[beta] = (result.prompt - particles.mean(dim=0)).norm()
    assert away[1e4] < 0.7 * away[0.0]


def test_a_single_particle_follows_plain_gradient_ascent() -> None:
    prompt = ParticlePrompts(random(1, 4, 6), random(4, 6, seed=1))
    gradient = random(1, 4, 6, seed=2)
    prompt.particles.grad = gradient.clone()
    prompt.turn_gradient(evidence=64.0)
    assert torch.equal(prompt.particles.grad, gradient)
    assert prompt.history()["mean_distance"] == [0.0]


def test_a_single_particle_with_a_prior_follows_the_map_gradient(llama: Backbone) -> None:
    batch, start = batch_of(llama), random(3, 16)
    prompt = ParticlePrompts(random(1, 3, 16, seed=1), start)
    ParticleLoss([0.5, 0.5], 10.0, prior_std=0.5)(llama, prompt, batch).backward()
    prompt.turn_gradient(10.0)
    alone = SoftPrompt(prompt.particles[0])
    losses = torch.nn.functional.cross_entropy(llama(alone, batch).logits, batch["labels"][:, 0], reduction="none")
    prior = torch.distributions.Normal(start, 0.5).log_prob(alone.prompt).sum()
    log_posterior = -10 * (0.25 * (losses[0] + losses[2]) + 0.5 * losses[1]) + prior
    (-log_posterior).backward()
    torch.testing.assert_close(10 * prompt.particles.grad[0], alone.prompt.grad, rtol=1e-4, atol=1e-5)


def test_the_repulsive_term_is_the_numerical_gradient_of_the_kernel() -> None:
    x = random(3, 1, 4).double()
    prompt = ParticlePrompts(x, torch.zeros(1, 4), bandwidth=3.0)
    prompt.particles.grad = torch.zeros(3, 1, 4)
    prompt.turn_gradient()
    expected, step = torch.zeros(3, 4, dtype=torch.float64), 1e-5
    for i in range(3):
        for j in range(3):
            for axis in range(4):
                move = torch.zeros(4, dtype=torch.float64)
                move[axis] = step
                ends = [torch.exp(-(x[j, 0] + way * move - x[i, 0]).square().sum() / 3) for way in (1, -1)]
                expected[i, axis] += (ends[0] - ends[1]) / (2 * step) / 3
    torch.testing.assert_close(-prompt.particles.grad[:, 0].double(), expected, rtol=1e-4, atol=1e-6)


def test_particles_turn_the_gradient_by_the_stein_formula() -> None:
    particles, gradient = random(3, 2, 4), random(3, 2, 4, seed=1)
    prompt = ParticlePrompts(particles, torch.zeros(2, 4), bandwidth=5.0)
    prompt.particles.grad = gradient.clone()
    prompt.turn_gradient(evidence=10.0)
    phi = literal_direction(particles.double().numpy(), -10 * gradient.double().numpy(), h=5.0)
    torch.testing.assert_close(prompt.particles.grad, torch.from_numpy(-phi / 10).float(), rtol=1e-5, atol=1e-6)


def test_particle_prompt_selects_by_row_and_measures_distance() -> None:
    prompt = ParticlePrompts(torch.stack([torch.zeros(2, 3), torch.ones(2, 3)]), torch.zeros(2, 3))
    got = prompt.prepend(torch.full((2, 1, 3), 7.0), torch.tensor([1, 0]))
    assert got[:, 0, 0].tolist() == [1.0, 0.0]
    assert prompt.distances().item() == pytest.approx(6**0.5)


# particles, slices and updates


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_slices_of_particles_give_the_same_loss_and_gradient(backbone: Backbone, size: int) -> None:
    batch = batch_of(backbone)
    results = []
    for slice_size in (5, size):
        prompt = ParticlePrompts(random(5, 3, 16, seed=1), random(3, 16))
        loss = ParticleLoss([0.3, 0.7], 10.0, prior_std=2.0, slice_size=slice_size)(backbone, prompt, batch)
        (2 * loss).backward()
        results.append((loss.detach(), prompt.particles.grad))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-6)


def test_the_gradient_of_the_slices_is_that_of_the_literal_loss(llama: Backbone) -> None:
    batch = batch_of(llama)
    prompt = ParticlePrompts(random(3, 3, 16, seed=1), random(3, 16))
    ParticleLoss([0.5, 0.5], 10.0, slice_size=2)(llama, prompt, batch).backward()
    for index in range(3):
        alone = SoftPrompt(prompt.particles[index])
        losses = torch.nn.functional.cross_entropy(llama(alone, batch).logits, batch["labels"][:, 0], reduction="none")
        (0.25 * (losses[0] + losses[2]) + 0.5 * losses[1]).div(3).backward()
        torch.testing.assert_close(prompt.particles.grad[index], alone.prompt.grad, rtol=1e-4, atol=1e-6)


class SmallMemory:
    """A backbone that runs out of memory above this many rows."""

    sharded = False

    def __init__(self, backbone: Backbone, rows: int) -> None:
        self.backbone = backbone
        self.rows = rows
        self.seen: list[int] = []

    def __call__(self, prompt, batch, **options):
        self.seen.append(len(batch["input_ids"]))
        if self.seen[-1] > self.rows:
            raise torch.OutOfMemoryError(f"{self.seen[-1]} rows")
        return self.backbone(prompt, batch, **options)


def test_slices_shrink_when_memory_runs_out_and_stay_small(llama: Backbone) -> None:
    batch = batch_of(llama)
    prompt = ParticlePrompts(random(5, 3, 16, seed=1), random(3, 16))
    want = ParticleLoss([0.5, 0.5], 10.0)(llama, prompt, batch)
    loss, small = ParticleLoss([0.5, 0.5], 10.0, slice_size=5), SmallMemory(llama, rows=7)
    torch.testing.assert_close(loss(small, prompt, batch), want, rtol=1e-6, atol=1e-6)
    assert small.seen == [15, 9, 6, 6, 3]  # five particles, three, two; three rows each
    small.seen.clear()
    loss(small, prompt, batch)
    assert small.seen == [6, 6, 3]
    with pytest.raises(torch.OutOfMemoryError):
        loss(SmallMemory(llama, rows=2), prompt, batch)


def test_a_batch_stands_for_the_sources_it_does_not_hold() -> None:
    weights = [0.5, 0.3, 0.2]
    loss = ParticleLoss(weights, 1.0)
    whole = loss.row_weights(torch.tensor([0, 1, 1, 2]))
    torch.testing.assert_close(whole, torch.tensor([0.5, 0.15, 0.15, 0.2]))
    # Every source equally often: the mean over the possible batches is the whole again.
    per_source = torch.zeros(3)
    for pair in ([0, 1], [0, 2], [1, 2]):
        per_source[pair] += loss.row_weights(torch.tensor(pair)) / 3
    torch.testing.assert_close(per_source, torch.tensor(weights))


def test_sources_that_a_batch_has_no_room_for_come_in_the_next() -> None:
    batches = source_batches([5, 5, 5, 5], 2, 4, seed=0)
    assert [[place // 5 for place in batch] for batch in batches] == [[0, 1], [2, 3], [0, 1], [2, 3]]


def test_the_prior_counts_once_for_all_answer_tokens(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log posterior of N tokens, divided by N as their mean loss is: beta / N, with answers of several tokens."""
    strengths = []
    original = Context.run

    def spy(self: Context, title: str, plan, settings=None, **named):
        if isinstance(plan.objective, PriorLoss):
            strengths.append((plan.objective.strength, settings["strength"]))
        return original(self, title, plan, settings, **named)

    monkeypatch.setattr(Context, "run", spy)
    tasks["goal"] = replace(tasks["goal"], choices=("no w1", "yes w1 w2"))
    ctx, target = context(llama, tasks, tmp_path, scoring="full", bmtpt={"beta": 0.5})
    METHODS["BMTPT"].run(ctx, target)
    no, yes = (tasks["goal"].train["label"].count(label) for label in (0, 1))
    tokens = 3 * no + 4 * yes  # their words and the end
    assert strengths == [(pytest.approx(0.5 / tokens), pytest.approx(0.5 / tokens))]


def test_sampled_sources_take_part_equally_often() -> None:
    batches = source_batches([10, 20, 30, 40], 5, 2000, seed=0, sources=2)
    owners = [[int(row >= 10) + int(row >= 30) + int(row >= 60) for row in batch] for batch in batches]
    assert all(len(set(batch)) == 2 and sorted(Counter(batch).values()) == [2, 3] for batch in owners)
    share = Counter(source for batch in owners for source in set(batch))
    assert all(abs(share[source] / 2000 - 0.5) < 0.05 for source in range(4))
    assert {len(set(batch)) for batch in source_batches([3, 3], 4, 5, seed=0, sources=9)} <= {2, 3, 4}


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "Adam", "RMSprop"])
def test_any_optimizer_applies_the_direction(optimizer: str) -> None:
    """Two sources N(a, 1) and N(b, 1/4) under a flat prior: the posterior is N((a + 4b) / 5, 1/5)."""
    prompt = ParticlePrompts(3 * random(60, 1, 1), torch.zeros(1, 1))
    rate = {"SGD": 0.2, "Adagrad": 0.3, "Adam": 0.02, "RMSprop": 0.01}[optimizer]
    step = getattr(torch.optim, optimizer)([prompt.particles], lr=rate)
    for _ in range(600):
        x = prompt.particles.detach()
        prompt.particles.grad = (x - 1.0) + 4 * (x + 1.0)  # of -log p, each particle's own
        prompt.turn_gradient()
        step.step()
    values = prompt.particles.detach().flatten()
    assert values.mean() == pytest.approx((1.0 - 4.0) / 5, abs=0.05)
    assert values.var() == pytest.approx(1 / 5, rel=0.2)


@pytest.mark.parametrize("per_token", [False, True])
def test_distances_kernel_and_bandwidth_are_logged(per_token: bool) -> None:
    prompt = ParticlePrompts(random(4, 3, 5), random(3, 5, seed=1), bandwidth=30.0, per_token=per_token)
    x = prompt.particles.detach().double().clone()
    prompt.particles.grad = torch.zeros_like(prompt.particles)
    prompt.turn_gradient()
    prompt.turn_gradient()
    pairs = [(i, j) for i in range(4) for j in range(i)]
    distances = torch.stack([(x[i] - x[j]).norm() for i, j in pairs])
    groups = x.unbind(dim=1) if per_token else [x.flatten(1)]
    kernel = torch.stack([torch.exp(-(g[i] - g[j]).square().sum() / 30) for g in groups for i, j in pairs])
    log = prompt.history()
    for name, values in (("distance", distances), ("kernel", kernel)):
        for kind, expected in (("mean", values.mean()), ("min", values.min()), ("max", values.max())):
            assert log[f"{kind}_{name}"] == pytest.approx([expected.item()] * 2, rel=1e-5)
    assert log["bandwidth"] == [30.0, 30.0]
    again = ParticlePrompts(x, random(3, 5, seed=1))
    again.restore_history(log)
    assert again.history() == log


@pytest.mark.parametrize("per_token", [False, True])
def test_the_kernel_mean_is_the_literal_density_mean(per_token: bool) -> None:
    prompt = ParticlePrompts(random(4, 2, 3), random(2, 3), bandwidth=4.0, per_token=per_token)
    x = prompt.particles.detach().double()

    def mean(rows: torch.Tensor) -> torch.Tensor:
        density = torch.stack([sum(torch.exp(-(a - b).square().sum() / 4) for b in rows) for a in rows])
        return sum(weight * row for weight, row in zip(density / density.sum(), rows, strict=True))

    expected = torch.stack([mean(x[:, token]) for token in range(2)]) if per_token else mean(x.flatten(1)).view(2, 3)
    torch.testing.assert_close(prompt.kernel_mean().double(), expected, rtol=1e-5, atol=1e-6)
    assert (prompt.kernel_mean() - x.mean(dim=0)).abs().max() > 1e-3


def test_the_kernel_mean_of_one_or_of_equal_particles_is_theirs() -> None:
    one = random(1, 2, 3)
    for particles in (one, one.repeat(3, 1, 1)):
        torch.testing.assert_close(ParticlePrompts(particles, torch.zeros(2, 3)).kernel_mean(), one[0])


def test_the_best_particle_has_the_least_loss_on_the_target(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    ctx, target = context(llama, tasks, tmp_path, bmtpt={"aggregation": "best"})
    prompt = ParticlePrompts(random(3, 3, 16, seed=1), ctx.start)
    losses = []
    for particle in prompt.particles.detach():
        batch = llama.collate([row.ids for row in target.train])
        labels = torch.tensor([row.answer[0] for row in target.train])
        losses.append(torch.nn.functional.cross_entropy(llama(SoftPrompt(particle), batch).logits, labels).item())
    assert training_losses(ctx, prompt.particles.detach(), target, "particles") == pytest.approx(losses, rel=1e-4)
    assert torch.equal(aggregate(ctx, prompt, target), prompt.particles[min(range(3), key=losses.__getitem__)])


def test_the_best_particle_on_validation_rows_answers_most_of_them(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    ctx, target = context(llama, tasks, tmp_path, bmtpt={"aggregation": "best-on-validation"})
    particles = random(6, 3, 16, seed=2)
    prompt = ParticlePrompts(particles, ctx.start)
    right = []
    for particle in particles:
        logits = literal_logits(llama, SoftPrompt(particle), target.test)
        predicted = logits[:, [token for (token,) in target.answers]].argmax(dim=1)
        right.append(int((predicted == torch.tensor(target.labels)).sum()))
    assert len(set(right)) > 1
    judged = replace(target, validation=target)
    assert torch.equal(aggregate(ctx, prompt, judged), particles[right.index(max(right))])
    with pytest.raises(ValueError, match=r"'goal' has no validation rows, which bmtpt\.aggregation"):
        aggregate(ctx, prompt, target)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("weights", ["uniform", "proportional"])
def test_an_update_of_the_sources_is_the_literal_one(
    llama: Backbone,
    tasks: dict[str, Task],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
    per_token: bool,
) -> None:
    """From single rows, with answers of several tokens, to the optimizer's gradient, in float64 loops."""
    for name, answers in (("red", ("no w1 w2", "no w3")), ("green", ("w4", "no w5 w6 w7"))):
        tasks[name] = replace(tasks[name], choices=answers)
    tasks["red"] = replace(tasks["red"], train=tasks["red"].train.select(range(10)))
    settings = {"particles": 3, "weights": weights, "evidence": "all", "source_prior": "gaussian", "rows": 7}
    more = {"source_prior_std": 0.5, "spread": 1.0, "per_token": per_token}
    ctx, _ = context(llama, tasks, tmp_path, scoring="full", bmtpt=settings | more)
    plans, original = [], Context.plan

    def spy(self: Context, *rest, **more):
        plans.append(original(self, *rest, **more))
        return plans[-1]

    monkeypatch.setattr(Context, "plan", spy)
    source_stage(ctx)
    (plan,) = plans
    rows = [plan.rows[index] for index in plan.batches[0]]
    assert len({len(row.answer) for row in rows}) > 1 and {row.task for row in rows} == {0, 1, 2}

    sizes = [len(source.train) for source in ctx.sources]
    assert sizes == [10, 30, 30]
    shares = [size / 70 for size in sizes] if weights == "proportional" else [1 / 3] * 3
    starts = start_particles(ctx.start, 3, 1.0, 1)
    theta = starts.double().numpy()
    scores = -(theta - ctx.start.double().numpy()) / 0.5**2
    for particle, score in zip(starts, scores, strict=True):
        for task, share in enumerate(shares):
            own = [row for row in rows if row.task == task]
            for row in own:
                prompt = SoftPrompt(particle)
                logs = literal_answer_logits(llama, prompt, row.ids, row.answer).double().log_softmax(dim=-1)
                likelihood = logs[range(len(row.answer)), list(row.answer)].sum()
                (gradient,) = torch.autograd.grad(likelihood, prompt.prompt)
                score += 70 * share * gradient.double().numpy() / len(own)
    expected = np.empty_like(theta)
    parts = [slice(token, token + 1) for token in range(3)] if per_token else [slice(None)]
    for part in parts:  # one kernel for each
        expected[:, part] = literal_direction(theta[:, part], scores[:, part])
    expected *= -1 / 70
    norms = np.linalg.norm(expected.reshape(3, -1), axis=1)
    largest = float(np.median(norms))  # one particle's step is longer and is cut, one is shorter
    expected *= np.minimum(1, largest / norms)[:, None, None]

    plan.prompt.load_state_dict({"particles": starts})
    batch = llama.collate([row.ids for row in rows], [row.answer for row in rows])
    batch["task_ids"] = torch.tensor([row.task for row in rows])
    plan.objective(llama, plan.prompt, batch).backward()
    ctx.config.max_grad_norm = largest
    plan.before_step()
    np.testing.assert_allclose(plan.prompt.particles.grad.numpy(), expected, rtol=1e-3, atol=1e-5 * norms.max())


def literal_direction(theta: np.ndarray, scores: np.ndarray, h: float | None = None) -> np.ndarray:
    """phi (Liu & Wang 2016, eq. 8) of particles (M, ...), h from the median over the whole matrix if not given."""
    count = len(theta)
    squares = np.array([[((a - b) ** 2).sum() for b in theta] for a in theta])
    h = np.median(squares) / np.log(count + 1) if h is None else h
    phi = np.zeros_like(theta)
    for i in range(count):
        for j in range(count):
            kernel = np.exp(-squares[i, j] / h)
            phi[i] += (kernel * scores[j] + 2 / h * kernel * (theta[i] - theta[j])) / count
    return phi


def test_the_target_prompt_starts_at_the_aggregate_with_the_papers_number_of_parameters() -> None:
    start = random(100, 768)
    for settings, count, rates in (
        ({}, 77_668, [0.3, 0.4]),
        ({"parametrisation": "full"}, 76_800, [0.3]),
        ({"full_rank_learning_rate": 0.1, "low_rank_learning_rate": 0.7}, 77_668, [0.1, 0.7]),
    ):
        prompt, groups = target_prompt(start, RunConfig(transfer_from="all", bmtpt=settings).bmtpt, 0.3)
        assert prompt.trainable_parameters() == count
        assert [group["lr"] for group in groups] == pytest.approx(rates)
        torch.testing.assert_close(prompt.composed(), start)


@pytest.mark.parametrize(
    "settings",
    [
        {"particles": 1},
        {"sources_per_update": 1, "weights": "proportional", "evidence": "all"},
        {"particles_per_forward": 3, "per_token": True, "aggregation": "kernel-weighted"},
        {"source_prior": "gaussian", "prior": "mixture", "aggregation": "best", "rank": 2},
        {"bandwidth": 3.0, "parametrisation": "full"},
    ],
)
def test_the_recipe_runs_with_its_settings(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, settings: dict
) -> None:
    ctx, target = context(llama, tasks, tmp_path, bmtpt=settings)
    result = METHODS["BMTPT"].run(ctx, target)
    assert torch.isfinite(result.prompt).all()
    factors = 0 if settings.get("parametrisation") == "full" else settings.get("rank", 1) * (3 + 16)
    assert result.trainable_parameters == 3 * 16 + factors
    assert (result.source_updates, result.target_updates, result.target_examples) == (4, 6, 24)
    assert len(result.other_prompts) == settings.get("particles", 4)
    for name in ("mean_distance", "mean_kernel", "bandwidth"):
        assert [update for update, _ in result.history["particles"][name]] == [1, 2, 3, 4]


def test_slices_are_no_part_of_a_stage(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    prompts = []
    for size in (None, 2):
        ctx, target = context(llama, tasks, tmp_path, bmtpt={"particles_per_forward": size})
        prompts.append(METHODS["BMTPT"].run(ctx, target).prompt)
    assert "BMTPT: particles on the sources: reused from the store" in ctx.progress.notes
    assert torch.equal(*prompts)


@pytest.mark.slow
def test_fused_and_reference_operations_train_alike(llama: Backbone, tasks: dict[str, Task], tmp_path: Path) -> None:
    curves = []
    for name in ("cpu", "reference"):
        with pk.use_backend(name):
            ctx, target = context(llama, tasks, tmp_path / str(name), bmtpt={"source_updates": 50})
            ctx.config.target_updates = 50
            history = METHODS["BMTPT"].run(ctx, target).history
            curves.append([[loss for _, loss in history[stage]] for stage in ("source_loss", "loss")])
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-5, atol=0)


def test_beta_one_is_the_maximum_of_the_posterior(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N times the loss over all rows is -log p(D_T | theta) - log p(theta | D_S), both summed, and stays finite."""
    settings = {"beta": 1.0, "parametrisation": "full", "particles": 3, "prior_std_floor": 0.01}
    ctx, target = context(llama, tasks, tmp_path, bmtpt=settings, learning_rate=0.5)
    plans, original = [], Context.run

    def spy(self: Context, title: str, plan, settings=None, **named):
        plans.append(plan)
        return original(self, title, plan, settings, **named)

    monkeypatch.setattr(Context, "run", spy)
    result = METHODS["BMTPT"].run(ctx, target)
    particles = torch.stack([result.other_prompts[f"particle{index}"] for index in range(3)]).double()
    theta = result.prompt
    batch = llama.collate([row.ids for row in target.train], [row.answer for row in target.train])
    batch["task_ids"] = torch.zeros(len(target.train), dtype=torch.int64)
    loss = plans[-1].objective(llama, SoftPrompt(theta), batch)
    tokens = sum(len(row.answer) for row in target.train)
    surprise = sum(
        torch.nn.functional.cross_entropy(
            literal_answer_logits(llama, SoftPrompt(theta), row.ids, row.answer),
            torch.tensor(row.answer),
            reduction="sum",
        )
        for row in target.train
    )
    std = particles.std(dim=0, unbiased=False).clamp(min=0.01)
    prior = torch.distributions.Normal(particles.mean(dim=0), std).log_prob(theta.double()).sum()
    peak = torch.distributions.Normal(particles.mean(dim=0), std).log_prob(particles.mean(dim=0)).sum()
    assert loss.item() * tokens == pytest.approx((surprise - prior + peak).item(), rel=1e-4)
    assert torch.isfinite(result.prompt).all()


def test_the_recipes_prior_is_sane_at_the_size_of_t5() -> None:
    """At beta 1 a step away from the particles costs a finite loss, whose pull is 1 / (N variance) of the distance."""
    particles = 8.0 * random(4, 100, 768)
    theta = torch.nn.Parameter(particles.mean(dim=0) + 0.3)  # one update of AdamW at rate 0.3
    (gaussian_penalty(particles, 0.05)(theta) / 500).backward()
    expected = 0.3 / particles.double().var(dim=0, unbiased=False).clamp(min=0.05**2) / 500
    torch.testing.assert_close(theta.grad.double(), expected, rtol=1e-4, atol=1e-7)
    assert theta.grad.norm() < 100
