"""PT, prompt tuning (Lester et al. 2021): one prompt, from P_init, on the target alone."""

from __future__ import annotations

from prompttransfer.methods.base import Method
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.shared import tuning_plan


class PT(Method):
    """Prompt tuning of the target alone."""

    name = "PT"
    transfers = False

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        prompt, plan = tuning_plan(ctx, target, ctx.target_batches(target))
        stage = ctx.run(f"{target.name}: PT", plan)
        return MethodResult.of(prompt.composed(), stage)
