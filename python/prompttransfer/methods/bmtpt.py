"""BMTPT (Lee et al. 2023): SVGD particles of the sources' posterior are the start and the prior of the target.

The paper's details are not public; the choices made here are settings of `BMTPTConfig`. Source stage: M particles,
every update reads rows of all sources. Target stage: prompt tuning from the aggregate of the particles under a prior
fitted to them; without it (prior "none" or beta 0) it is exactly prompt tuning from the aggregate.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.mpt import joined_rows
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss, PriorLoss, gaussian_penalty, mixture_penalty
from prompttransfer.methods.sampler import Cursor, flatten
from prompttransfer.prompts import ParticlePrompts, SoftPrompt
from prompttransfer.store import tensor_hash


def start_particles(start: Tensor, count: int, spread: float, seed: int) -> Tensor:
    """(M, L, H): P_init, and P_init + noise of standard deviation spread * std(P_init)."""
    noise = torch.randn(count, *start.shape, generator=torch.Generator().manual_seed(seed))
    noise[0] = 0
    return start + spread * start.std() * noise


def all_source_batches(sizes: list[int], batch_size: int, updates: int, seed: int) -> list[list[int]]:
    """Batches with equally many rows of every source; the remainder goes around."""
    rng = np.random.default_rng(seed)
    cursors = [Cursor(size, rng) for size in sizes]
    batches, turn = [], 0
    for _ in range(updates):
        tasks = [(turn + index) % len(sizes) for index in range(batch_size)]
        turn = (turn + batch_size) % len(sizes)
        batches.append([(task, cursors[task].take(1)[0]) for task in tasks])
    return flatten(batches, sizes)


def source_stage(ctx: Context) -> tuple[ParticlePrompts, dict]:
    """SVGD on the sources: the particles and the stage's facts."""
    config, bmtpt = ctx.config, ctx.config.bmtpt
    rows, sizes = joined_rows(ctx.sources)
    updates = bmtpt.source_updates or config.source_updates
    batches = all_source_batches(sizes, bmtpt.rows or max(1, config.batch_size // 2), updates, ctx.source_seed)
    total = sum(sizes) if bmtpt.weights == "proportional" else len(sizes)
    weights = [(size if bmtpt.weights == "proportional" else 1) / total for size in sizes]
    prior_std = bmtpt.source_prior_std if bmtpt.source_prior == "gaussian" else None
    prompt = ParticlePrompts(
        start_particles(ctx.start, bmtpt.particles, bmtpt.spread, ctx.source_seed),
        ctx.start,
        bandwidth=bmtpt.bandwidth,
        per_token=bmtpt.per_token,
    )

    def follow_svgd() -> None:
        # The loss is a mean over particles: its gradient is 1/M of each one's own.
        prompt.particles.grad.mul_(prompt.count)
        prompt.turn_gradient(bmtpt.evidence)
        if config.max_grad_norm:
            for gradient in prompt.particles.grad:
                gradient.mul_((config.max_grad_norm / gradient.norm().clamp(min=1e-12)).clamp(max=1))

    loss = ParticleLoss(weights, bmtpt.evidence, prior_std)
    # Clipping all particles together would couple them: each is clipped by itself, after SVGD.
    plan = ctx.plan(prompt, loss, rows, batches, config.learning_rate, max_grad_norm=0.0, before_step=follow_svgd)
    settings = {
        "loss": "svgd",
        "weights": weights,
        "evidence": bmtpt.evidence,
        "prior_std": prior_std,
        "bandwidth": bmtpt.bandwidth,
        "per_token": bmtpt.per_token,
        "clip": config.max_grad_norm,
    }
    return prompt, ctx.run("BMTPT: particles on the sources", plan, settings).facts


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    bmtpt = ctx.config.bmtpt
    posterior, source_facts = source_stage(ctx)
    particles = posterior.particles.detach().clone()
    prompt = SoftPrompt(particles.mean(dim=0) if bmtpt.aggregation == "mean" else particles[0])
    loss, settings = task_loss, {}
    if bmtpt.prior != "none" and bmtpt.beta > 0:
        fit = gaussian_penalty if bmtpt.prior == "gaussian" else mixture_penalty
        strength = bmtpt.beta / len(target.train)  # the task loss is a mean over rows, the log posterior a sum
        loss = PriorLoss(fit(particles, bmtpt.prior_std_floor), strength)
        settings = {
            "loss": bmtpt.prior,
            "strength": strength,
            "std_floor": bmtpt.prior_std_floor,
            "particles": tensor_hash(particles),
        }
    plan = ctx.plan(prompt, loss, target.train, ctx.target_batches(target), ctx.config.target_rate)
    facts = ctx.run(f"{target.name}: BMTPT", plan, settings).facts
    log = source_facts["history"]
    return MethodResult(
        prompt=prompt.composed().cpu(),
        other_prompts={f"particle{index}": particle for index, particle in enumerate(particles)},
        trainable_parameters=facts["trainable_parameters"],
        target_updates=facts["updates"],
        target_examples=facts["examples"],
        source_updates=source_facts["updates"],
        seconds=facts["seconds"],
        history={
            "loss": facts["loss"],
            "source_loss": source_facts["loss"],
            "particles": {
                "mean_distance": [[update, value] for update, value in enumerate(log["mean_distance"], 1)],
                "bandwidth": [[update, value] for update, value in enumerate(log["bandwidth"], 1)],
            },
        },
        notes=f"{len(particles)} particles",
    )
