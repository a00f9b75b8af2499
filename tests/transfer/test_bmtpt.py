"""BMTPT: the particles' posterior, the priors fitted to them, the recipe."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from recipes import batch_of, context, random

from prompttransfer.methods import METHODS
from prompttransfer.methods.bmtpt import source_batches, start_particles
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
        losses = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
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


def test_bmtpt_without_prior_is_prompt_tuning_from_the_particle_mean(
    llama: Backbone, tasks: dict[str, Task], tmp_path: Path
) -> None:
    results = []
    for prior in ({"beta": 0.0}, {"prior": "none"}):
        ctx, target = context(llama, tasks, tmp_path, bmtpt=prior)
        results.append(METHODS["BMTPT"](ctx, target).prompt)
    assert torch.equal(*results)
    strong, target = context(llama, tasks, tmp_path, bmtpt={"beta": 100.0})
    assert not torch.equal(METHODS["BMTPT"](strong, target).prompt, results[0])


def test_a_single_particle_follows_plain_gradient_ascent() -> None:
    prompt = ParticlePrompts(random(1, 4, 6), random(4, 6, seed=1))
    gradient = random(1, 4, 6, seed=2)
    prompt.particles.grad = gradient.clone()
    prompt.turn_gradient(evidence=64.0)
    assert torch.equal(prompt.particles.grad, gradient)
    assert prompt.history()["mean_distance"] == [0.0]


def test_particles_turn_the_gradient_by_the_stein_formula() -> None:
    particles, gradient = random(3, 2, 4).double(), random(3, 2, 4, seed=1).double()
    prompt = ParticlePrompts(particles, torch.zeros(2, 4), bandwidth=5.0)
    prompt.particles.grad = gradient.float()
    prompt.turn_gradient(evidence=10.0)
    phi = torch.zeros(3, 2, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            kernel = torch.exp(-(particles[i] - particles[j]).square().sum() / 5)
            phi[i] += (kernel * -10 * gradient[j] + 2 / 5 * kernel * (particles[i] - particles[j])) / 3
    torch.testing.assert_close(prompt.particles.grad, (-phi / 10).float(), rtol=1e-5, atol=1e-6)


def test_particle_prompt_selects_by_row_and_measures_distance() -> None:
    prompt = ParticlePrompts(torch.stack([torch.zeros(2, 3), torch.ones(2, 3)]), torch.zeros(2, 3))
    got = prompt.prepend(torch.full((2, 1, 3), 7.0), torch.tensor([1, 0]))
    assert got[:, 0, 0].tolist() == [1.0, 0.0]
    assert prompt.distances().item() == pytest.approx(6**0.5)
