"""CrossPT (Pouramini, Faili 2025): every target weighs shared source prompts and adds a private one.

Stage 1: one prompt per source. Stage 2: all targets of the run together. The source prompts, shared by the targets,
continue to train along with each target's attention and private prompt. The finished prompts are plain matrices.

docs/methods/crosspt.md says what comes from the authors and what is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

import promptkernels as pk
from prompttransfer.methods.base import Method, Scope, SizedTask, Stage, check_one_rate
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.shared import source_cost, source_prompts, train_together
from prompttransfer.prompts import PromptModule
from prompttransfer.prompts.base import put_first, speeds
from prompttransfer.settings.base import Settings
from prompttransfer.settings.run import RunConfig


class CrossPTConfig(Settings):
    """CrossPT (Pouramini, Faili 2025): targets trained together, each with its attention over shared source prompts."""

    block: ClassVar[str] = "crosspt"

    private: Literal["added", "attended"] = "added"
    """Role of a target's private prompt. added: starts at 0 and is added to the attended sources. attended: starts at
    P_init and takes part in the attention."""
    train_sources: bool = True
    """Keep training the shared source prompts; if false, freeze them."""
    source_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the shared source prompts. Default: target_learning_rate."""
    attention_learning_rate: float = Field(0.1, gt=0)
    """Learning rate of the attention logits; published configurations use 0.1."""


class CrossTaskPrompt(PromptModule):
    """P_t = sum_s a_ts P_s + V_t, a_t = softmax_s(w_t); attended: P_t = sum_s a_ts P_s + a_tt V_t, softmax over both.

    The targets share P_s (K, L, H). Each has its own w_t and V_t (L, H). All w_t start at 0.

    Args:
        sources: start of the P_s, (K, L, H).
        private: start of the V_t, (T, L, H).
        attended: whether the softmax includes V_t.
        train_sources: whether to train the P_s; if false, they are frozen.
    """

    def __init__(self, sources: Tensor, private: Tensor, *, attended: bool = False, train_sources: bool = True) -> None:
        super().__init__(*sources.shape[1:])
        self.sources = nn.Parameter(sources.detach().float().clone(), requires_grad=train_sources)
        self.private = nn.Parameter(private.detach().float().clone(memory_format=torch.contiguous_format))
        self.logits = nn.Parameter(torch.zeros(len(private), len(sources) + attended))

    @property
    def count(self) -> int:
        return len(self.private)

    def attention(self) -> Tensor:
        """Attention (T, K), or (T, K+1) with V_t last if it is attended."""
        return self.logits.softmax(dim=-1)

    def _prompt(self, task: int) -> Tensor:
        private, weights = self.private[task], self.attention()[task]
        known = len(self.sources)
        # The weights sum to 1. With V_t as the reference, its weight is 1 minus the sum of the others.
        if len(weights) > known:
            return pk.merge_task_vectors(private, self.sources, weights=weights[:known])
        return private + pk.merge_task_vectors(torch.zeros_like(private), self.sources, weights=weights)

    def prepend(self, input_embeds: Tensor, task_ids: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        prompts = torch.stack([self._prompt(task) for task in range(self.count)])
        return put_first(prompts[self.ids_of_rows(task_ids, input_embeds)], input_embeds)

    @torch.no_grad()
    def composed(self, task: int = 0) -> Tensor:
        return self._prompt(task)

    def parameter_groups(
        self, learning_rate: float, source_rate: float | None = None, attention_rate: float | None = None
    ) -> list[dict[str, Any]]:
        """Groups of V_t, P_s (unless frozen) and w_t, each at its own rate. Default: learning_rate."""
        shared = (([self.sources], source_rate), ([self.logits], attention_rate))
        return speeds(learning_rate, ([self.private], None), *shared)


class CrossPT(Method):
    """Attention of every target over shared, trainable source prompts."""

    name = "CrossPT"
    settings = (CrossPTConfig,)

    def check(self, config: RunConfig) -> None:
        check_one_rate(config, self.name)

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        crosspt, known, count = scope.config.of(CrossPTConfig), len(scope.sources), len(scope.targets)
        own = scope.prompt + known + (crosspt.private == "attended")
        yield scope.together(self.name, count * own + known * scope.prompt * crosspt.train_sources)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        crosspt, group = ctx.config.of(CrossPTConfig), ctx.targets or [target]
        attended = crosspt.private == "attended"
        start = ctx.start if attended else torch.zeros_like(ctx.start)
        prompt = CrossTaskPrompt(
            torch.stack(source_prompts(ctx)),
            start.expand(len(group), -1, -1),
            attended=attended,
            train_sources=crosspt.train_sources,
        )
        parameters = prompt.parameter_groups(
            ctx.config.target_rate, crosspt.source_learning_rate, crosspt.attention_learning_rate
        )
        place = [task.name for task in group].index(target.name)
        result = train_together(ctx, group, place, prompt, parameters, self.name, source_cost(ctx))
        names = [*(source.name for source in ctx.sources), target.name]
        weights = prompt.attention()[place].tolist()
        result.history["attention"] = dict(zip(names, weights, strict=False))
        return result
