"""Base class of the methods: name, settings, requirements, training stages and how to run it."""

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
    """What is known about a task before a run.

    train: number of training rows, None if unknown; max_length: text tokens per row, None to use the run's setting.
    """

    @property
    def name(self) -> str: ...

    @property
    def train(self) -> int | None: ...

    @property
    def max_length(self) -> int | None: ...


@dataclass(frozen=True)
class Stage:
    """A training stage, declared before the run. Equal stages are trained once.

    Attributes:
        tasks: tasks whose training rows the stage reads.
        updates: number of updates; None if it depends on rows that are not known yet.
        batch: rows per update.
        trained: number of trainable parameters.
        prompts: largest number of different prompts in one batch.
        passes: forward and backward passes over the batch per update.
        taught: whether each update adds a forward pass with a teacher's prompt.
        by_row: whether every row has its own prompt.
        chosen: whether validation rows may choose the prompt to keep, if the settings ask for it.
        rate: peak learning rate; None to use the task's.
        length: prompt tokens; None to use the run's.
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
    """The settings, tasks and sizes from which a method declares its stages.

    Attributes:
        length, hidden: prompt length L and hidden size H.
    """

    config: RunConfig
    sources: tuple[SizedTask, ...]
    targets: tuple[SizedTask, ...]
    length: int
    hidden: int

    @property
    def prompt(self) -> int:
        """Number of values in a prompt, L * H."""
        return self.length * self.hidden

    def source_prompt(self, source: SizedTask) -> Stage:
        """Prompt tuning on one source."""
        updates = None if source.train is None else source_updates(self.config, source.train)
        return Stage(f"source {source.name}", (source,), updates, self.config.source_batch_size, self.prompt)

    def joint(self, title: str, block: JointBudget, trained: int, batch: int | None = None, **more: Any) -> Stage:
        """A stage on all sources together. `block` holds the stage's source_updates and source_epochs."""
        sizes = [source.train for source in self.sources]
        rows = None if None in sizes else sum(size or 0 for size in sizes)
        batch = batch or self.config.source_batch_size
        updates = None if rows is None else joint_updates(self.config, block, rows, batch)
        return Stage(title, self.sources, updates, batch, trained, chosen=False, **more)

    def budget(self, target: SizedTask) -> TargetBudget | None:
        """The target's budget; None if it depends on rows that are not known yet."""
        return None if target.train is None else target_budget(self.config.for_task(target.name), target.train)

    def parts(self, target: SizedTask, fraction: float) -> tuple[int | None, int | None]:
        """Split a target's updates into two parts; the first gets the given fraction."""
        budget = self.budget(target)
        return (None, None) if budget is None else split_updates(budget.total, fraction)

    def tuning(self, target: SizedTask, title: str, trained: int, **more: Any) -> Stage:
        """A stage on a target with its whole budget. `more` overrides fields of the stage."""
        budget, batch = self.budget(target), self.config.for_task(target.name).batch_size
        if budget is not None and budget.own:
            batch = round((budget.own * budget.own_rows + budget.transfer * batch) / budget.total)
        fields = {"updates": None if budget is None else budget.total, "batch": batch} | more
        return Stage(f"{target.name}: {title}", (target,), trained=trained, **fields)

    def together(self, title: str, trained: int) -> Stage:
        """A stage on all targets together, each with its whole budget; see `shared.train_together`."""
        budgets, count = [self.budget(task) for task in self.targets], len(self.targets)
        updates = None if None in budgets else max(budget.total for budget in budgets if budget)
        batch = sum(self.config.for_task(task.name).batch_size for task in self.targets)
        return Stage(f"{count} targets: {title}", self.targets, updates, batch, trained, prompts=count)


class Method(ABC):
    """A way to train a target's prompt. Subclass it and register the subclass to use it in runs.

    Attributes:
        name: name in `RunConfig.methods`, and of the folder of its prompts.
        settings: settings classes of the method; each names its own `block`.
        transfers: whether it learns from source tasks. If false, it also runs without sources.
    """

    name: str
    settings: tuple[type[Settings], ...] = ()
    transfers: bool = True

    def source_prompts(self, config: RunConfig) -> bool:
        """Whether the method needs a prompt for each source. The run trains, scores and saves them."""
        return self.transfers

    def check(self, config: RunConfig) -> None:  # noqa: B027  most have nothing to check
        """Raise a ValueError that names settings which do not fit together."""

    def validation_setting(self, config: RunConfig) -> str | None:
        """The setting that makes the method read a target's validation rows, or None."""
        return None

    def disk(self, config: RunConfig) -> int:
        """Bytes that the method may write to disk in addition to its stages."""
        return 0

    def own_budget(self, config: RunConfig, rows: int) -> tuple[int, int]:
        """Extra updates on a target with this many rows, and rows per update. Every method's budget grows by them."""
        return 0, config.batch_size

    def source_stages(self, scope: Scope) -> Iterable[Stage]:
        """Stages on the sources, except for the prompt of each source."""
        return ()

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterable[Stage]:
        """Stages on a target. A stage on several targets together is yielded for each of them."""
        return (scope.tuning(target, self.name, scope.prompt),)

    @abstractmethod
    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        """Train a target's prompt. Called once per target and seed."""


def check_fraction(config: RunConfig, method: str, name: str, fraction: float) -> None:
    """Raise a ValueError if a fraction of the target's budget leaves one of two stages without updates.

    A budget in epochs depends on the rows and is checked once they are loaded.
    """
    budgets = {"target_updates": config.target_updates if config.target_epochs is None else None}
    budgets["max_updates"] = config.max_updates
    for setting, budget in budgets.items():
        if budget is not None and not 0 < round(fraction * budget) < budget:
            raise ValueError(f"{setting}={budget} with {name}={fraction} leaves a stage of {method} without updates")


def check_one_rate(config: RunConfig, method: str) -> None:
    """Raise a ValueError if targets that a method trains together have different learning rates."""
    rates = {name: config.for_task(name, method).target_rate for name in config.targets}
    if len(set(rates.values())) > 1:
        listed = ", ".join(f"{rate} for {name}" for name, rate in rates.items())
        raise ValueError(f"{method} trains its targets together: want one rate for all of them, got {listed}")


def all_stages(methods: Sequence[Method], scope: Scope) -> Iterator[tuple[Stage, bool]]:
    """Yield every stage of a run once, in the order of the run, with whether it is on sources."""
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
