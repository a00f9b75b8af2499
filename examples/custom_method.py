"""A method of your own beside the others: start from the mean of the source prompts, weighted by their similarity.

python examples/custom_method.py
"""

import json
from pathlib import Path

import torch
from pydantic import Field

import promptkernels as pk
from prompttransfer import Progress, RunConfig, compare, register_method
from prompttransfer.methods import (
    Context,
    EncodedTask,
    Method,
    MethodResult,
    Settings,
    own_prompt,
    own_share,
    source_cost,
    source_prompts,
    task_loss,
)
from prompttransfer.prompts import SoftPrompt


class SoupSettings(Settings):
    """Settings of the method: --set soup.temperature=0.2, or a block of a recipe."""

    block = "soup"
    temperature: float = Field(0.1, gt=0)
    """Temperature of the softmax over the similarities."""


@register_method
class Soup(Method):
    """Half of the budget trains the target's own prompt, which weighs the sources; the rest goes on from their mean."""

    name = "soup"
    settings = (SoupSettings,)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        sources = torch.stack(source_prompts(ctx))  # trained once, whatever methods ask for them
        own, first, batches = own_prompt(ctx, target, own_share(ctx, target, 0.5))
        similarity = pk.task_similarity(own[None], ctx.start, others=sources)[0]
        weights = torch.softmax(similarity / ctx.config.of(SoupSettings).temperature, dim=0)
        prompt = SoftPrompt(pk.merge_task_vectors(ctx.start, sources, weights=weights))
        plan = ctx.plan(prompt, task_loss, target.train, batches, ctx.config.target_rate)
        second = ctx.run(f"{target.name}: soup", plan)
        notes = "weights " + ", ".join(f"{w:.2f}" for w in weights)
        return MethodResult.of(prompt.composed(), first, second, source_updates=source_cost(ctx), notes=notes)


def main(**changes: object) -> list[dict]:
    """The rows of the results; changes: other settings than these."""
    settings = {"sources": ("amazon", "tweets"), "targets": ("nyt",), "methods": ("PT", "SPoT", "soup")}
    config = RunConfig(**settings | {"output": Path("runs/soup")} | changes)
    with Progress() as progress:
        folder = compare(config, progress)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for row in rows:
        print(f"{row['method']}: {row['metric']} {row['score']:.1f} {row['notes']}")
    return rows


if __name__ == "__main__":
    main()
