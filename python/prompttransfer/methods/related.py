"""Transfer from related sources only, for methods that start anew from what the sources have learned.

The first updates of the target's prompt tuning, paid from its budget, show which sources are related (`sign_test`).
When none is, tuning simply continues: the method is then prompt tuning, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from prompttransfer.methods import pt
from prompttransfer.methods.context import Context, EncodedTask, MethodResult, stack
from prompttransfer.methods.shared import own_share, source_cost, source_prompts, tuning_plan
from prompttransfer.prompts.sign_test import SignTest, sign_test


@dataclass(frozen=True)
class FirstUpdates:
    """What the first updates of a target's prompt tuning showed.

    Attributes:
        test: of all sources; names: theirs.
        prompt: (L, H), as they left it; facts: of the stage.
        batches: the rest of the target's budget.
    """

    test: SignTest
    names: list[str]
    prompt: Tensor
    facts: dict[str, Any]
    batches: Sequence[Sequence[int]]

    @property
    def note(self) -> str:
        return self.test.note(self.names)

    def history(self) -> dict[str, Any]:
        """For the report."""
        return {"names": self.names, **self.test.history()}


def first_updates(ctx: Context, target: EncodedTask) -> FirstUpdates:
    """Begin to tune the target's prompt, and test all sources against it."""
    tuning, settings = ctx.of(target, "PT"), ctx.config.related
    updates = own_share(tuning, target, settings.own_fraction)
    batches = ctx.target_batches(target)
    prompt, plan = tuning_plan(tuning, target, batches[:updates], horizon=len(batches))
    facts = tuning.run(f"{target.name}: first updates", plan).facts
    own, names = prompt.composed().cpu(), [source.name for source in ctx.sources]
    test = sign_test(own, stack(source_prompts(ctx)), ctx.start, settings.level)
    return FirstUpdates(test, names, own, facts, batches[updates:])


def without_transfer(ctx: Context, target: EncodedTask, first: FirstUpdates) -> MethodResult:
    """Prompt tuning, for a target without related sources."""
    result = pt.run(ctx.of(target, "PT"), target)
    result.source_updates = source_cost(ctx)
    result.notes = first.note
    result.history["related"] = first.history()
    return result


def after(first: FirstUpdates, result: MethodResult) -> MethodResult:
    """The result of a transfer stage, with what the first updates took and showed."""
    result.target_updates += first.facts["updates"]
    result.target_examples += first.facts["examples"]
    result.seconds += first.facts["seconds"]
    result.notes = "; ".join(filter(None, (result.notes, first.note)))
    offset = first.facts["updates"]
    later = [[offset + update, loss] for update, loss in result.history["loss"]]
    result.history |= {"loss": [*first.facts["loss"], *later], "related": first.history()}
    return result
