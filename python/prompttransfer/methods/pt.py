"""PT, prompt tuning (Lester et al. 2021): one prompt, from P_init, on the target alone."""

from __future__ import annotations

from prompttransfer.methods.base import Method
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.prompts import SoftPrompt


class PT(Method):
    """Prompt tuning of the target alone."""

    name = "PT"
    transfers = False

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        prompt = SoftPrompt(ctx.start)
        stage = ctx.tune(self.name, prompt, target)
        return MethodResult.of(prompt.composed(), stage)
