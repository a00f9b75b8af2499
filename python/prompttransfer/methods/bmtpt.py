"""BMTPT (Lee et al. 2023): SVGD particles of the sources' posterior are the start and the prior of the target.

We have read the paper's abstract and secondary sources, not the paper, and its official repository holds no code; the
choices made here are settings of `BMTPTConfig`.
Source stage: M prompts follow SVGD on log p(theta | sources). Target stage: training from an aggregate of the
particles, as one full-rank matrix or with low-rank factors at a rate of their own, under a prior fitted to the
particles. Without it (prior "none" or beta 0) and with a full-rank prompt, it is prompt tuning from the aggregate.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prompttransfer.budget import bmtpt_rows, joint_updates
from prompttransfer.config import BMTPTConfig
from prompttransfer.methods.choosing import training_losses
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss, PriorLoss, gaussian_penalty, mixture_penalty
from prompttransfer.methods.related import first_updates, joined, without_transfer
from prompttransfer.methods.sampler import Cursor, flatten
from prompttransfer.methods.shared import joined_rows
from prompttransfer.prompts import MultitaskPrompt, ParticlePrompts, PromptModule, SoftPrompt
from prompttransfer.rows import Rows
from prompttransfer.selection import mean_score
from prompttransfer.store import tensor_hash


def start_particles(start: Tensor, count: int, spread: float, seed: int) -> Tensor:
    """(M, L, H): P_init, and P_init + noise of standard deviation spread * std(P_init)."""
    noise = torch.randn(count, *start.shape, generator=torch.Generator().manual_seed(seed))
    noise[0] = 0
    return start + spread * start.std() * noise


def source_batches(
    sizes: list[int], batch_size: int, updates: int, seed: int, sources: int | None = None
) -> list[list[int]]:
    """Batches with equally many rows of every source that takes part; the remainder goes around.

    Args:
        sources: how many take part in an update, drawn without replacement; None: all, or as many as a batch has rows,
            one after the other.
    """
    rng = np.random.default_rng(seed)
    cursors = [Cursor(size, rng) for size in sizes]
    batches, turn = [], 0
    for _ in range(updates):
        if sources is None:
            order = [(turn + index) % len(sizes) for index in range(len(sizes))]
            turn = (turn + batch_size) % len(sizes)
        else:
            order = rng.permutation(len(sizes))[:sources].tolist()
        tasks = [order[index % len(order)] for index in range(batch_size)]
        batches.append([(task, cursors[task].take(1)[0]) for task in tasks])
    return flatten(batches, sizes)


def source_stage(ctx: Context) -> tuple[ParticlePrompts, dict]:
    """SVGD on the sources: the particles and the stage's facts."""
    config, bmtpt = ctx.config, ctx.config.bmtpt
    rows, sizes = joined_rows(ctx.sources)
    batch_size = bmtpt_rows(config)
    updates = joint_updates(config, bmtpt, len(rows), batch_size)
    batches = source_batches(sizes, batch_size, updates, ctx.source_seed, bmtpt.sources_per_update)
    total = sum(sizes) if bmtpt.weights == "proportional" else len(sizes)
    weights = [(size if bmtpt.weights == "proportional" else 1) / total for size in sizes]
    evidence = float(sum(sizes)) if bmtpt.evidence == "all" else bmtpt.evidence
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
        prompt.turn_gradient(evidence)
        if config.max_grad_norm:
            for gradient in prompt.particles.grad:
                gradient.mul_((config.max_grad_norm / gradient.norm().clamp(min=1e-12)).clamp(max=1))

    loss = ParticleLoss(weights, evidence, prior_std, bmtpt.particles_per_forward, bmtpt.parallel)
    plan = ctx.plan(
        prompt,
        loss,
        rows,
        batches,
        config.learning_rate,
        max_grad_norm=0.0,  # clipping all particles together would couple them: each is clipped by itself, after SVGD
        before_step=follow_svgd,
        whole_batches=bmtpt.parallel == "particles",
    )
    settings = {
        "loss": "svgd",
        "likelihood": "whole answers",
        "weights": weights,
        "evidence": evidence,
        "prior_std": prior_std,
        "bandwidth": bmtpt.bandwidth,
        "per_token": bmtpt.per_token,
        "clip": config.max_grad_norm,
    }
    return prompt, ctx.run("BMTPT: particles on the sources", plan, settings).facts


def particle_scores(ctx: Context, particles: Tensor, target: EncodedTask) -> list[float]:
    """Mean of the metrics of every particle (M, L, H) on the target's validation rows.

    Raises:
        ValueError: it has none.
    """
    held_out = target.validation
    if held_out is None:
        raise ValueError(f"task {target.name!r} has no validation rows for bmtpt.aggregation to look at")
    title = f"{target.name}: validation of particle"
    found = [ctx.evaluate(f"{title} {index}", held_out, particle) for index, particle in enumerate(particles)]
    return [mean_score(held_out, each) for each in found]


def aggregate(ctx: Context, posterior: ParticlePrompts, target: EncodedTask) -> Tensor:
    """Start of the target prompt (L, H): mean, kernel-weighted mean, or the particle best on the target's rows."""
    particles = posterior.particles.detach()
    if ctx.config.bmtpt.aggregation == "best":
        losses = training_losses(ctx, particles, target, "particles")
        return particles[losses.index(min(losses))]
    if ctx.config.bmtpt.aggregation == "best-on-validation":
        scores = particle_scores(ctx, particles, target)
        return particles[scores.index(max(scores))]
    return posterior.kernel_mean() if ctx.config.bmtpt.aggregation == "kernel-weighted" else particles.mean(dim=0)


def target_prompt(start: Tensor, bmtpt: BMTPTConfig, rate: float) -> tuple[PromptModule, list[dict]]:
    """The target's prompt and its parameter groups: the start, times low-rank factors of one when "factored"."""
    rate = bmtpt.full_rank_learning_rate or rate
    if bmtpt.parametrisation == "full":
        full = SoftPrompt(start)
        return full, full.parameter_groups(rate)
    factored = MultitaskPrompt(start, 1, bmtpt.rank)
    return factored, factored.parameter_groups(rate, bmtpt.low_rank_learning_rate or rate * 4 / 3)


def run(ctx: Context, target: EncodedTask) -> MethodResult:
    if ctx.config.bmtpt.transfer_from == "all":
        return _adapt(ctx, target)
    first = first_updates(ctx, target)
    if not first.test.related:
        return without_transfer(ctx, target, first)
    related = replace(ctx, sources=[ctx.sources[place] for place in first.test.related])
    posterior, source_facts = source_stage(related)
    start = aggregate(related, posterior, target)
    result = joined(ctx, target, first, start[None], f"{target.name}: BMTPT from related sources")
    result.other_prompts |= _particles(posterior)
    result.history |= _source_history(source_facts)
    result.source_updates += source_facts["updates"]
    return result


def _particles(posterior: ParticlePrompts) -> dict[str, Tensor]:
    return {f"particle{index}": particle for index, particle in enumerate(posterior.particles.detach().clone())}


def _source_history(facts: dict) -> dict[str, Any]:
    """Curves of the source stage."""
    particles = facts["history"].items()
    return {
        "source_loss": facts["loss"],
        "particles": {name: [[update, value] for update, value in enumerate(values, 1)] for name, values in particles},
    }


def _adapt(ctx: Context, target: EncodedTask) -> MethodResult:
    """Train the target from the posterior of all sources."""
    bmtpt, batches = ctx.config.bmtpt, ctx.target_batches(target)
    posterior, source_facts = source_stage(ctx)
    particles = posterior.particles.detach().clone()
    rate = ctx.config.target_rate
    prompt, groups = target_prompt(aggregate(ctx, posterior, target), bmtpt, rate)
    loss, settings = task_loss, {}
    if bmtpt.prior != "none" and bmtpt.beta > 0:
        fit = gaussian_penalty if bmtpt.prior == "gaussian" else mixture_penalty
        # The task loss is a mean over answer tokens, the log posterior a sum over those of all rows.
        strength = bmtpt.beta / Rows.of(target.train).answer_tokens
        loss = PriorLoss(fit(particles.to(ctx.backbone.device), bmtpt.prior_std_floor), strength)
        settings = {
            "loss": bmtpt.prior,
            "strength": strength,
            "std_floor": bmtpt.prior_std_floor,
            "particles": tensor_hash(particles),
        }
    plan = ctx.plan(prompt, loss, target.train, batches, rate, [target], groups=groups)
    facts = ctx.run(f"{target.name}: BMTPT", plan, settings).facts
    return MethodResult(
        prompt=prompt.composed().cpu(),
        other_prompts=_particles(posterior),
        trainable_parameters=facts["trainable_parameters"],
        target_updates=facts["updates"],
        target_examples=facts["examples"],
        source_updates=source_facts["updates"],
        seconds=facts["seconds"],
        history={"loss": facts["loss"], **_source_history(source_facts)},
        notes=f"{len(particles)} particles",
    )
