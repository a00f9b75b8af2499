"""BMTPT's objectives: the source posterior at every particle, and the target's loss under a prior fitted to them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prompttransfer.distributed import processes
from prompttransfer.distributed.shares import whole_counts, whole_sum
from prompttransfer.methods.objectives import cross_entropy, task_loss
from prompttransfer.models import Backbone, Batch
from prompttransfer.prompts import ParticlePrompts, PromptModule

_CPU_ROWS = 64  # rows per forward on a CPU


@dataclass
class ParticleLoss:
    """-log p(theta_m | sources) / evidence, mean over the M particles. Every particle reads all rows of the batch.

    log p(theta | sources) = evidence * sum_k w_k * mean log-likelihood of source k + log p(theta): the likelihood is
    tempered to `evidence` rows, and the prior is counted once. A row's log-likelihood is the sum over its answer
    tokens. A batch with P of the K sources stands for all of them: the weights are multiplied by K / P, the inverse of
    a source's probability of being in the batch.

    The particles are independent given the batch, so they can be processed in slices. The gradient of a slice is taken
    before the next slice is read, and only one slice's activations are in memory.

    Args:
        weights: w_k, one per source; they sum to 1.
        evidence: rows of evidence that the mean loss stands for.
        prior_std: standard deviation of the prior N(P_init, prior_std^2); None: flat prior.
        slice_size: particles per forward; None: all of them. A CPU does not report that its memory runs out, so there
            the default is at most as many as read 64 rows together. Halved when the device runs out of memory.
        parallel: what several processes split: the "rows" of a batch, or the "particles", each of which then reads
            the whole batch in one process.
    """

    weights: Sequence[float]
    evidence: float
    prior_std: float | None = None
    slice_size: int | None = None
    parallel: str = "rows"

    def __call__(self, backbone: Backbone, prompt: ParticlePrompts, batch: Batch) -> Tensor:
        per_row = self.row_weights(batch["task_ids"])
        own = self.own_particles(prompt.count)
        while True:
            fitting = max(1, _CPU_ROWS // len(per_row)) if prompt.particles.device.type == "cpu" else prompt.count
            size = self.slice_size or fitting
            try:
                parts = [
                    self._slice(backbone, prompt, batch, per_row, own[first : first + size])
                    for first in range(0, len(own), size)
                ]
                break
            except torch.OutOfMemoryError:
                if size == 1 or backbone.sharded:  # the other processes wait for this one at every layer
                    raise
                self.slice_size = (size + 1) // 2
        # With fewer particles than processes, some processes read none.
        nothing = prompt.particles.new_zeros(()), torch.zeros_like(prompt.particles)
        losses, gradients = zip(*(parts or [nothing]), strict=True)
        loss = _WithGradient.apply(prompt.particles, torch.stack(losses).sum(), torch.stack(gradients).sum(dim=0))
        loss = whole_sum(loss)
        if self.prior_std is not None:
            distance = (prompt.particles - prompt.reference).square().sum(dim=(1, 2)).mean()
            loss = loss + distance / (2 * self.prior_std**2 * self.evidence)
        return loss

    def own_particles(self, count: int) -> range:
        """Particles that this process reads."""
        if self.parallel == "rows":
            return range(count)
        rank, readers = processes.rank(), processes.count()
        return range(rank * count // readers, (rank + 1) * count // readers)

    def _slice(
        self, backbone: Backbone, prompt: ParticlePrompts, batch: Batch, per_row: Tensor, which: range
    ) -> tuple[Tensor, Tensor]:
        """A slice's share of the mean over particles, and its gradient with respect to all of them."""
        rows, count = len(per_row), len(which)
        repeated = {name: batch[name].repeat(count, 1) for name in ("input_ids", "attention_mask", "labels")}
        particle = torch.arange(which.start, which.stop, device=per_row.device).repeat_interleave(rows)
        with torch.enable_grad():
            logits = backbone(prompt, repeated, task_ids=particle).logits
            losses = cross_entropy(logits, repeated["labels"], "rows").view(count, rows)
            loss = (losses @ per_row).sum() / prompt.count
            (gradient,) = torch.autograd.grad(loss, prompt.particles)
        return loss.detach(), gradient

    def row_weights(self, task_ids: Tensor) -> Tensor:
        """Row weights (B,): the rows of a source share its weight."""
        weights = torch.tensor(self.weights, dtype=torch.float32, device=task_ids.device)
        counts = torch.zeros_like(weights).index_add_(0, task_ids, torch.ones_like(task_ids, dtype=weights.dtype))
        counts, times = (counts, 1.0) if self.parallel == "particles" else whole_counts(counts)
        per_row = times * (weights / counts.clamp(min=1))[task_ids]
        return per_row * len(weights) / (counts > 0).sum()


class _WithGradient(torch.autograd.Function):
    """A scalar function of x whose gradient is already known."""

    @staticmethod
    def forward(ctx, x, value, gradient):
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx, grad):
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None


@dataclass
class PriorLoss:
    """Task loss + strength * (-log prior of the prompt): BMTPT's target stage."""

    penalty: Callable[[Tensor], Tensor]
    strength: float

    def __call__(self, backbone: Backbone, prompt: PromptModule, batch: Batch) -> Tensor:
        # Prepending to a text of no tokens returns the prompt alone, with its gradient, for every parametrisation.
        no_text = torch.empty(1, 0, prompt.hidden_size, device=batch["input_ids"].device)
        return task_loss(backbone, prompt, batch) + self.strength * self.penalty(prompt.prepend(no_text)[0])


def gaussian_penalty(particles: Tensor, std_floor: float) -> Callable[[Tensor], Tensor]:
    """-log N(theta; mean, diagonal variance of the particles) up to a constant: |(theta - mean) / std|^2 / 2."""
    mean = particles.mean(dim=0)
    variance = particles.var(dim=0, unbiased=False).clamp(min=std_floor**2)
    return lambda theta: ((theta - mean).square() / variance).sum() / 2


def mixture_penalty(particles: Tensor, std_floor: float) -> Callable[[Tensor], Tensor]:
    """-log of an equal mixture of isotropic Gaussians at the particles, up to a constant."""
    variance = particles.var(dim=0, unbiased=False).mean().clamp(min=std_floor**2)

    def penalty(theta: Tensor) -> Tensor:
        distance = (theta - particles).square().sum(dim=(1, 2))
        return math.log(len(particles)) - torch.logsumexp(-distance / (2 * variance), dim=0)

    return penalty
