"""ATTEMPT (Asai et al. 2022): every row attends to the frozen source prompts and to the target's own prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from prompttransfer.methods.base import Method, Scope, SizedTask, Stage
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.shared import source_cost, source_prompts
from prompttransfer.models import Backbone
from prompttransfer.models.rows import EncodedRow
from prompttransfer.prompts import InstancePrompt
from prompttransfer.settings.base import Presets


class ATTEMPTConfig(Presets):
    """ATTEMPT (Asai et al. 2022): every row attends to the source prompts and the target's own."""

    block: ClassVar[str] = "attempt"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"code": {"mask_padding": False, "train_norm": False}}

    variant: Literal["paper", "code"] = "paper"
    """Version to follow where paper and published code differ. code sets mask_padding and train_norm to false, unless
    you set them."""
    mask_padding: bool = True
    """Leave padding out of the maximum over the text's embeddings."""
    train_norm: bool = True
    """Train the weights of the attention's LayerNorm."""
    projection: int = Field(100, ge=1)
    """Width between W_down and W_up."""
    temperature: float | None = Field(None, gt=0)
    """Temperature tau of the attention. Default: e * hidden size."""
    start: Literal["first_source", "p_init"] = "first_source"
    """Start of the target's prompt: the first source prompt, or P_init."""
    attention_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of W_down, W_up and LayerNorm. Default: that of the prompt, as in the published runs."""


@torch.no_grad()
def average_over(
    backbone: Backbone, prompt: InstancePrompt, rows: tuple[EncodedRow, ...], batch_size: int
) -> tuple[Tensor, Tensor]:
    """Mean prompt (L, H) and attention (K+1,) over rows. Prompt and results are on the CPU."""
    total, attention = torch.zeros_like(prompt.target), torch.zeros(len(prompt.sources) + 1)
    for first in range(0, len(rows), batch_size):
        batch = backbone.collate([row.ids for row in rows[first : first + batch_size]])
        embeds = backbone.embedding(batch["input_ids"].to(backbone.device)).cpu()
        total += prompt.of_rows(embeds, batch["attention_mask"]).sum(dim=0)
        attention += prompt.attention(embeds, batch["attention_mask"]).sum(dim=0)
    return total / len(rows), attention / len(rows)


class ATTEMPT(Method):
    """Attention of every row over the source prompts and the target's own."""

    name = "ATTEMPT"
    settings = (ATTEMPTConfig,)

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        attempt, hidden = scope.config.of(ATTEMPTConfig), scope.hidden
        attention = 2 * attempt.projection * hidden + 2 * hidden * attempt.train_norm
        yield scope.tuning(target, self.name, scope.prompt + attention, by_row=True)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        config, attempt = ctx.config, ctx.config.of(ATTEMPTConfig)
        sources = torch.stack(source_prompts(ctx))
        prompt = InstancePrompt(
            sources,
            sources[0] if attempt.start == "first_source" else ctx.start,
            projection=attempt.projection,
            temperature=attempt.temperature,
            mask_padding=attempt.mask_padding,
            train_norm=attempt.train_norm,
            seed=ctx.seed,
        )
        groups = prompt.parameter_groups(config.target_rate, attempt.attention_learning_rate)
        stage = ctx.tune(self.name, prompt, target, groups=groups, settings={"attends to": "text"})
        mean, attention = average_over(ctx.backbone, prompt, target.train, config.eval_batch_size)
        names = [*(source.name for source in ctx.sources), target.name]
        return MethodResult.of(
            mean,
            stage,
            module=prompt,
            other_prompts={"own": prompt.target.detach()},
            source_updates=source_cost(ctx),
            history={"attention": dict(zip(names, attention.tolist(), strict=True))},
            notes="depends on the row: scored as a module; the prompt file holds the mean over the training rows",
        )
