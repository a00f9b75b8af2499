"""What a method is: its name, its settings, what it needs, the stages it trains, and how it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from prompttransfer.methods.budget import JointBudget, TargetBudget, joint_updates, source_updates, target_budget
from prompttransfer.methods.sampler import split_updates
from prompttransfer.settings.base import Settings
from prompttransfer.settings.run import RunConfig

if TYPE_CHECKING:
    from prompttransfer.methods.context import Context, MethodResult
    from prompttransfer.models.encoding import EncodedTask


class SizedTask(Protocol):
    """A task as far as it is known before a run.

    train: training rows, None where they are not known; max_length: text tokens of a row, None where the run says it.
    """

    @property
    def name(self) -> str: ...

    @property
    def train(self) -> int | None: ...

    @property
    def max_length(self) -> int | None: ...


@dataclass(frozen=True)
class Stage:
    """A training stage as it is declared before a run. Equal stages are trained once.

    Attributes:
        tasks: whose training rows it reads.
        updates: None: not known, as it follows from the rows.
        batch: rows of an update.
        trained: parameters.
        prompts: different prompts that the rows of a batch read, at most.
        passes: how often an update reads its batch forward and backward.
        taught: an update also reads its batch forward with a teacher's prompt.
        by_row: every row reads a prompt of its own.
        chosen: validation rows choose the prompt that is kept, where the settings ask for it.
        rate: peak learning rate, where it is not that of the tasks.
        length: tokens of a prompt, where it is not that of the run.
    """

    title: str
    tasks: tuple[SizedTask, ...]
    updates: int | None
    batch: int
    trained: int
    prompts: int = 1
    passes: int = 1
    taught: bool = False
    by_row: bool = False
    chosen: bool = True
    rate: float | None = None
    length: int | None = None


@dataclass(frozen=True)
class Scope:
    """What a method declares its stages from: the settings, tasks and sizes of a run.

    Attributes:
        length, hidden: of a prompt, L and H.
    """

    config: RunConfig
    sources: tuple[SizedTask, ...]
    targets: tuple[SizedTask, ...]
    length: int
    hidden: int

    @property
    def prompt(self) -> int:
        """Numbers of a prompt, L H."""
        return self.length * self.hidden

    def source_prompt(self, source: SizedTask) -> Stage:
        """Prompt tuning of a source."""
        updates = None if source.train is None else source_updates(self.config, source.train)
        return Stage(f"source {source.name}", (source,), updates, self.config.source_batch_size, self.prompt)

    def joint(self, title: str, block: JointBudget, trained: int, batch: int | None = None, **more: Any) -> Stage:
        """A stage on all sources together; block: settings with its source_updates and source_epochs."""
        sizes = [source.train for source in self.sources]
        rows = None if None in sizes else sum(size or 0 for size in sizes)
        batch = batch or self.config.source_batch_size
        updates = None if rows is None else joint_updates(self.config, block, rows, batch)
        return Stage(title, self.sources, updates, batch, trained, chosen=False, **more)

    def budget(self, target: SizedTask) -> TargetBudget | None:
        """None: it follows from rows that are not known."""
        return None if target.train is None else target_budget(self.config.for_task(target.name), target.train)

    def parts(self, target: SizedTask, fraction: float) -> tuple[int | None, int | None]:
        """The updates of a target's budget in two parts, the first one a fraction."""
        budget = self.budget(target)
        return (None, None) if budget is None else split_updates(budget.total, fraction)

    def tuning(self, target: SizedTask, title: str, trained: int, **more: Any) -> Stage:
        """A stage on a target with all of its budget, where `more` does not say otherwise."""
        budget, batch = self.budget(target), self.config.for_task(target.name).batch_size
        if budget is not None and budget.own:
            batch = round((budget.own * budget.own_rows + budget.transfer * batch) / budget.total)
        given = {"updates": None if budget is None else budget.total, "batch": batch} | more
        return Stage(f"{target.name}: {title}", (target,), trained=trained, **given)

    def together(self, title: str, trained: int) -> Stage:
        """A stage on all targets together, each with all of its budget; see `shared.train_together`."""
        budgets, count = [self.budget(task) for task in self.targets], len(self.targets)
        updates = None if None in budgets else max(budget.total for budget in budgets if budget)
        batch = sum(self.config.for_task(task.name).batch_size for task in self.targets)
        return Stage(f"{count} targets: {title}", self.targets, updates, batch, trained, prompts=count)


class Method(ABC):
    """A way to make a target's prompt. A subclass that is registered takes part in all that a run's methods do.

    Attributes:
        name: as in `RunConfig.methods`, and the name of its folder of prompts.
        settings: the blocks of settings that it brings; each names its own `block`.
        transfers: it learns from source tasks; else it runs without any.
    """

    name: str
    settings: tuple[type[Settings], ...] = ()
    transfers: bool = True

    def source_prompts(self, config: RunConfig) -> bool:
        """Whether it asks for a prompt of each source, which a run then trains, scores and saves."""
        return self.transfers

    def check(self, config: RunConfig) -> None:  # noqa: B027  most have nothing to check
        """Raise a ValueError that names the settings which do not fit together."""

    def validation_setting(self, config: RunConfig) -> str | None:
        """The setting that makes it look at a target's validation rows, if one does."""
        return None

    def disk(self, config: RunConfig) -> int:
        """Bytes that it may keep beside its stages."""
        return 0

    def own_budget(self, config: RunConfig, rows: int) -> tuple[int, int]:
        """Updates, and rows of each, that it adds to the budget of every method on a target with so many rows."""
        return 0, config.batch_size

    def source_stages(self, scope: Scope) -> Iterable[Stage]:
        """Its stages on the sources, without the prompts of each source."""
        return ()

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterable[Stage]:
        """Its stages on a target; of several targets together, the same one for each."""
        return (scope.tuning(target, self.name, scope.prompt),)

    @abstractmethod
    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        """Train a target's prompt; called once for each target and seed."""


def check_fraction(config: RunConfig, method: str, name: str, fraction: float) -> None:
    """Raise a ValueError where a fraction of the target's budget leaves no updates to one of two stages.

    A budget in epochs depends on the rows, and is checked when they are there.
    """
    budgets = {"target_updates": config.target_updates if config.target_epochs is None else None}
    budgets["max_updates"] = config.max_updates
    for given, budget in budgets.items():
        if budget is not None and not 0 < round(fraction * budget) < budget:
            raise ValueError(f"{given}={budget} with {name}={fraction} leaves no updates to a stage of {method}")


def check_one_rate(config: RunConfig, method: str) -> None:
    """Raise a ValueError where targets that a method trains together have different rates."""
    rates = {name: config.for_task(name, method).target_rate for name in config.targets}
    if len(set(rates.values())) > 1:
        told = ", ".join(f"{rate} for {name}" for name, rate in rates.items())
        raise ValueError(f"{method} trains its targets together: want one rate for all of them, got {told}")


def all_stages(methods: Sequence[Method], scope: Scope) -> Iterator[tuple[Stage, bool]]:
    """Every stage of a run once, in the order in which a run comes to them; and whether it is on sources."""
    seen: set[Stage] = set()

    def new(stages: Iterable[Stage]) -> Iterator[Stage]:
        for stage in stages:
            if stage not in seen:
                seen.add(stage)
                yield stage

    if any(method.source_prompts(scope.config) for method in methods):
        yield from ((stage, True) for stage in new(map(scope.source_prompt, scope.sources)))
    for method in methods:
        yield from ((stage, True) for stage in new(method.source_stages(scope)))
    for target in scope.targets:
        for method in methods:
            yield from ((stage, False) for stage in new(method.target_stages(scope, target)))
