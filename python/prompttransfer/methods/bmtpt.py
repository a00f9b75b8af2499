"""BMTPT (Lee et al. 2023): SVGD particles of the source posterior give the target its start and its prior.

We know the paper's abstract and secondary sources, not the paper itself, and the official repository has no code. The
choices made here are settings of `BMTPTConfig`.

Source stage: M prompts follow SVGD on log p(theta | sources). Target stage: training from an aggregate of the
particles, as one full-rank matrix or with low-rank factors at a rate of their own, under a prior fitted to the
particles. Without a prior ("none" or beta 0) and with a full-rank prompt, this is prompt tuning from the aggregate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from prompttransfer.files.store import tensor_hash
from prompttransfer.methods import related
from prompttransfer.methods.base import Method, Scope, SizedTask, Stage
from prompttransfer.methods.budget import joint_updates
from prompttransfer.methods.choosing import training_losses
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss, PriorLoss, gaussian_penalty, mixture_penalty
from prompttransfer.methods.sampler import Cursor, flatten
from prompttransfer.methods.shared import joined_rows
from prompttransfer.models.rows import EncodedRows
from prompttransfer.prompts import MultitaskPrompt, ParticlePrompts, PromptModule, SoftPrompt
from prompttransfer.settings.base import Settings
from prompttransfer.settings.run import RunConfig
from prompttransfer.training.history import History
from prompttransfer.training.selection import mean_score


class BMTPTConfig(Settings):
    """BMTPT (Lee et al. 2023): SVGD particles of the source posterior, used as start and prior of the target."""

    block: ClassVar[str] = "bmtpt"

    particles: int = Field(4, ge=1)
    """Number of particles, M."""
    source_updates: int | None = Field(None, ge=1)
    """Number of SVGD updates. Default: source_updates of the run."""
    source_epochs: float | None = Field(None, gt=0)
    """Epochs of SVGD over the mixed sources. Replaces source_updates."""
    rows: int | None = Field(None, ge=1)
    """Number of rows per SVGD update, all read by every particle. Default: half of batch_size."""
    sources_per_update: int | None = Field(None, ge=1)
    """Number of sources drawn at random for each SVGD update. Default: rows from all sources."""
    particles_per_forward: int | None = Field(None, ge=1)
    """Number of particles per forward pass. The result does not depend on it. Default: as many as read 64 rows on a
    CPU, elsewhere as many as fit into memory."""
    parallel: Literal["rows", "particles"] = "rows"
    """What several processes split in an SVGD update: the rows of the batch, or the particles. The result does not
    depend on it."""
    spread: float = Field(0.2, ge=0)
    """Spread of the first particles: P_init + N(0, s^2) with s = spread * std of P_init. The first particle is P_init
    itself."""
    bandwidth: float | Literal["liu2016", "numpyro", "blackjax"] = "liu2016"
    """Kernel bandwidth h in exp(-d^2 / h): a number, or the rule of a paper or library."""
    per_token: bool = False
    """Use one kernel per prompt token instead of one over the whole prompt."""
    evidence: Annotated[float, Field(gt=0)] | Literal["all"] = 100.0
    """Tempering: number of rows of evidence that the mean source loss stands for in log p(D|theta). all: the number of
    training rows of the sources; with weights 'proportional' this is the untempered posterior."""
    weights: Literal["uniform", "proportional"] = "uniform"
    """Weights of the sources in the likelihood: equal, or proportional to their number of rows."""
    source_prior: Literal["flat", "gaussian"] = "flat"
    """Prior p(theta) of the source posterior."""
    source_prior_std: float = Field(1.0, gt=0)
    """Standard deviation of the Gaussian source prior around P_init."""
    aggregation: Literal["mean", "best", "best-on-validation", "kernel-weighted"] = "mean"
    """Start of the target prompt. mean: mean of the particles. best: the particle with the lowest loss on the target's
    training rows. best-on-validation: the particle with the highest score on the target's validation rows; this uses
    their labels, so it is no longer few-shot. kernel-weighted: mean weighted by kernel density."""
    parametrisation: Literal["factored", "full"] = "factored"
    """Form of the target prompt. factored: full-rank matrix times low-rank factors that start at one. full: the matrix
    alone."""
    rank: int = Field(1, ge=1)
    """Rank of the target's factors."""
    full_rank_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the full-rank part. Default: target_learning_rate."""
    low_rank_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the low-rank factors. Default: 4/3 of that of the full-rank part."""
    prior: Literal["none", "gaussian", "mixture"] = "gaussian"
    """Form of the prior on the target prompt."""
    prior_std_floor: float = Field(0.05, gt=0)
    """Smallest standard deviation of the target prior, in embedding units."""
    beta: float = Field(1e-3, ge=0)
    """Weight of -log prior relative to the summed target loss."""


def start_particles(start: Tensor, count: int, spread: float, seed: int) -> Tensor:
    """(M, L, H): P_init, and P_init + noise of standard deviation spread * std(P_init)."""
    noise = torch.randn(count, *start.shape, generator=torch.Generator().manual_seed(seed))
    noise[0] = 0
    return start + spread * start.std() * noise


def source_batches(
    sizes: list[int], batch_size: int, updates: int, seed: int, sources: int | None = None
) -> list[list[int]]:
    """Batches with the same number of rows from every participating source. Sources take turns with the remainder.

    Args:
        sources: number of sources per update, drawn without replacement. None: all of them; if a batch has fewer rows
            than there are sources, they take turns.
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
    """Run SVGD on the sources; return the particles and the stage's facts."""
    config, bmtpt = ctx.config, ctx.config.of(BMTPTConfig)
    rows, sizes = joined_rows(ctx.sources)
    # The same for every target, whatever batch size its updates use.
    batch_size = svgd_rows(ctx.run_config or config)
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
        # The loss is a mean over particles, so its gradient is 1/M of each particle's.
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
        max_grad_norm=0.0,  # clipping all particles together would couple them; each is clipped on its own after SVGD
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
    return prompt, ctx.run("BMTPT: particles on the sources", plan, settings, seed=ctx.source_seed).facts


def particle_scores(ctx: Context, particles: Tensor, target: EncodedTask) -> list[float]:
    """Mean metric of every particle (M, L, H) on the target's validation rows."""
    held_out = target.validation
    if held_out is None:
        raise ValueError(f"task {target.name!r} has no validation rows, which bmtpt.aggregation needs")
    title = f"{target.name}: validation of particle"
    evaluations = [ctx.evaluate(f"{title} {index}", held_out, particle) for index, particle in enumerate(particles)]
    return [mean_score(held_out, evaluation) for evaluation in evaluations]


def aggregate(ctx: Context, posterior: ParticlePrompts, target: EncodedTask) -> Tensor:
    """Start of the target prompt (L, H): mean, kernel-weighted mean, or best particle on the target's rows."""
    particles, aggregation = posterior.particles.detach(), ctx.config.of(BMTPTConfig).aggregation
    if aggregation == "best":
        losses = training_losses(ctx, particles, target, "particles")
        return particles[losses.index(min(losses))]
    if aggregation == "best-on-validation":
        scores = particle_scores(ctx, particles, target)
        return particles[scores.index(max(scores))]
    return posterior.kernel_mean() if aggregation == "kernel-weighted" else particles.mean(dim=0)


def target_prompt(start: Tensor, bmtpt: BMTPTConfig, rate: float) -> tuple[PromptModule, list[dict]]:
    """The target's prompt and its parameter groups. If "factored", low-rank factors of one multiply the start."""
    rate = bmtpt.full_rank_learning_rate or rate
    if bmtpt.parametrisation == "full":
        full = SoftPrompt(start)
        return full, full.parameter_groups(rate)
    factored = MultitaskPrompt(start, 1, bmtpt.rank)
    return factored, factored.parameter_groups(rate, bmtpt.low_rank_learning_rate or rate * 4 / 3)


def _particles(posterior: ParticlePrompts) -> dict[str, Tensor]:
    return {f"particle{index}": particle for index, particle in enumerate(posterior.particles.detach().clone())}


def _source_history(facts: dict) -> History:
    """Curves of the source stage."""
    particles = facts["history"].items()
    return {
        "source_loss": facts["loss"],
        "particles": {name: [[update, value] for update, value in enumerate(values, 1)] for name, values in particles},
    }


def _adapt(ctx: Context, target: EncodedTask) -> MethodResult:
    """Train the target from the posterior of all sources."""
    bmtpt = ctx.config.of(BMTPTConfig)
    posterior, source_facts = source_stage(ctx)
    particles = posterior.particles.detach().clone()
    prompt, groups = target_prompt(aggregate(ctx, posterior, target), bmtpt, ctx.config.target_rate)
    loss, settings = task_loss, {}
    if bmtpt.prior != "none" and bmtpt.beta > 0:
        fit = gaussian_penalty if bmtpt.prior == "gaussian" else mixture_penalty
        # The task loss is a mean over answer tokens; the log posterior is a sum over the answer tokens of all rows.
        strength = bmtpt.beta / EncodedRows.of(target.train).answer_tokens
        loss = PriorLoss(fit(particles.to(ctx.backbone.device), bmtpt.prior_std_floor), strength)
        settings = {
            "loss": bmtpt.prior,
            "strength": strength,
            "std_floor": bmtpt.prior_std_floor,
            "particles": tensor_hash(particles),
        }
    stage = ctx.tune("BMTPT", prompt, target, objective=loss, settings=settings, groups=groups)
    return MethodResult.of(
        prompt.composed(),
        stage,
        other_prompts=_particles(posterior),
        source_updates=source_facts["updates"],
        history=_source_history(source_facts),
        notes=f"{len(particles)} particles",
    )


class BMTPT(Method):
    """Bayesian multi-task transfer learning for prompt tuning."""

    name = "BMTPT"
    settings = (BMTPTConfig, related.RelatedConfig)

    def check(self, config: RunConfig) -> None:
        of_the_target = ("parametrisation", "rank", "full_rank_learning_rate", "low_rank_learning_rate")
        related.check_unused(config, config.of(BMTPTConfig), (*of_the_target, "prior", "prior_std_floor", "beta"))

    def source_prompts(self, config: RunConfig) -> bool:
        return config.transfer_from == "related"

    def validation_setting(self, config: RunConfig) -> str | None:
        return "bmtpt.aggregation" if config.of(BMTPTConfig).aggregation == "best-on-validation" else None

    def source_stages(self, scope: Scope) -> Iterator[Stage]:
        bmtpt = scope.config.of(BMTPTConfig)
        trained, batch = bmtpt.particles * scope.prompt, svgd_rows(scope.config)
        yield scope.joint("BMTPT: particles", bmtpt, trained, batch, passes=bmtpt.particles)

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        bmtpt = scope.config.of(BMTPTConfig)
        if scope.config.transfer_from == "related":
            yield from related.stages(scope, target, self.name, scope.length)
        else:
            factors = bmtpt.rank * (scope.length + scope.hidden) if bmtpt.parametrisation == "factored" else 0
            yield scope.tuning(target, self.name, scope.prompt + factors)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        if ctx.config.transfer_from == "all":
            return _adapt(ctx, target)
        first = related.first_updates(ctx, target)
        if not first.related:
            return related.without_transfer(ctx, target, first)
        few = replace(ctx, sources=[ctx.sources[place] for place in first.related])
        posterior, source_facts = source_stage(few)
        start = aggregate(few, posterior, target)
        result, _ = related.joined(ctx, target, first, start[None], "BMTPT from related sources")
        result.other_prompts |= _particles(posterior)
        result.history |= _source_history(source_facts)
        result.source_updates += source_facts["updates"]
        return result


def svgd_rows(config: RunConfig) -> int:
    """Rows per SVGD update. Every particle reads each of them."""
    return config.of(BMTPTConfig).rows or max(1, config.batch_size // 2)
