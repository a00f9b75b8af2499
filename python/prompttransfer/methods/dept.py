"""DePT (Shi, Lipani 2024): a shorter prompt; the saved parameters go to a low-rank offset of the text's embeddings.

One stage, on the target alone. docs/methods/dept.md says what comes from the authors and what is our choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from prompttransfer.methods.base import Method, Scope, SizedTask, Stage
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.prompts import OffsetPrompt
from prompttransfer.settings.base import Settings
from prompttransfer.settings.run import RunConfig


class DePTConfig(Settings):
    """DePT (Shi, Lipani 2024): a short prompt and a low-rank offset of the input embeddings, at two learning rates."""

    block: ClassVar[str] = "dept"

    length: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Number of tokens m of the short prompt; below 1, their share of prompt_length."""
    rank: int | None = Field(None, ge=1)
    """Rank r of the offset. Default: the largest one, at least 1, that trains no more parameters than prompt tuning."""
    offset_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the offset. Default: target_learning_rate / 60, about the middle of the three that the authors'
    script tries."""

    def short(self, length: int) -> int:
        """Length m of the short prompt that replaces one of `length` tokens."""
        return self.length if isinstance(self.length, int) else max(1, round(self.length * length))

    def rank_of(self, length: int, hidden: int, positions: int) -> int:
        """Rank r such that m H + r (S + H) <= L H."""
        return self.rank or max(1, (length - self.short(length)) * hidden // (positions + hidden))


class DePT(Method):
    """Prompt tuning with a shorter prompt and an offset of the text's embeddings."""

    name = "DePT"
    settings = (DePTConfig,)
    transfers = False

    def check(self, config: RunConfig) -> None:
        short = config.of(DePTConfig).short(config.prompt_length)
        if short > config.prompt_length:
            raise ValueError(f"dept.length={short} is above prompt_length={config.prompt_length}; use a smaller length")

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        dept, positions = scope.config.of(DePTConfig), target.max_length or scope.config.max_length
        short, rank = dept.short(scope.length), dept.rank_of(scope.length, scope.hidden, positions)
        trained = short * scope.hidden + rank * (positions + scope.hidden)
        yield scope.tuning(target, self.name, trained, by_row=True, length=short)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        dept, rate = ctx.config.of(DePTConfig), ctx.config.target_rate
        length, hidden = ctx.start.shape
        positions = target.max_length or ctx.backbone.max_length
        prompt = OffsetPrompt(
            ctx.start[: dept.short(length)], positions, dept.rank_of(length, hidden, positions), seed=ctx.seed
        )
        groups = prompt.parameter_groups(rate, dept.offset_learning_rate or rate / 60)
        stage = ctx.tune(self.name, prompt, target, groups=groups)
        return MethodResult.of(
            prompt.short.detach(),
            stage,
            module=prompt,
            notes="changes the text: scored as a module; the prompt file holds the short prompt without the offset",
        )
