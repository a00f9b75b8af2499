"""The stages of a run in their order: rows, updates, trained parameters, and the tokens that pass through the model.

Trained parameters, with L prompt tokens, H hidden size, R rank, K sources, M particles, T targets, P the projection:

    one source, PT, Multi-PT, SPoT, TPV      L H
    MPT, the sources together                L H + K R (L + H)
    MPT, a target                            L H + R (L + H)
    MPT-group, T targets together            L H + T R (L + H)
    BMTPT, particles; a target               M L H; L H + R (L + H)
    DTVG                                     L H + (K + 1) L
    ATTEMPT                                  L H + 2 P H + 2 H (without 2 H where LayerNorm is frozen)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prompttransfer.budget import TargetBudget, bmtpt_rows, joint_updates, own_rows, source_updates, target_budget
from prompttransfer.config import RunConfig
from prompttransfer.method_config import BMTPTConfig, MPTConfig, MultiPTConfig
from prompttransfer.methods.sampler import split_updates
from prompttransfer.validate.model import ModelFacts
from prompttransfer.validate.tasks import TaskFacts


@dataclass(frozen=True)
class Stage:
    """A stage of a run.

    Attributes:
        rows: training rows (of the scoring: rows that are scored); None: not known.
        updates: None: not known, as it follows from the rows; 0: nothing is trained.
        batch: rows of an update.
        trained: parameters; None: the model is not known.
        trained_on, read_only, written: tokens of an update that pass through the model forward and backward; forward
            only; and through a decoder, forward and backward.
        longest: tokens of a row, prompt included, for the attention of all pairs.
        times: how often it runs: once for each seed.
    """

    title: str
    rows: int | None
    updates: int | None
    batch: int
    trained: int | None
    trained_on: float = 0.0
    read_only: float = 0.0
    written: float = 0.0
    longest: float = 0.0
    times: int = 1


def stages(
    config: RunConfig, model: ModelFacts | None, sources: Sequence[TaskFacts], targets: Sequence[TaskFacts]
) -> list[Stage]:
    """All stages, each once, in the order in which a comparison comes to them."""
    return list(_Plan(config, model, tuple(sources), tuple(targets)).all())


@dataclass(frozen=True)
class _Plan:
    config: RunConfig
    model: ModelFacts | None
    sources: tuple[TaskFacts, ...]
    targets: tuple[TaskFacts, ...]

    def all(self) -> Iterator[Stage]:
        methods = set(self.config.methods)
        repeated = len(self.config.seeds) if self.config.retrain_sources else 1
        for stage in self._source_stages(methods):
            yield replace(stage, times=repeated)
        for target in self.targets:
            for stage in self._target_stages(methods, target):
                yield replace(stage, times=len(self.config.seeds))
        if "MPT-group" in methods:
            yield replace(self._group(), times=len(self.config.seeds))
        yield self._scoring(methods)

    def _source_stages(self, methods: set[str]) -> Iterator[Stage]:
        config = self.config
        if config.source_prompts:
            for task in self.sources:
                updates = None if task.train is None else source_updates(config, task.train)
                yield self._stage(f"source {task.name}", [task], updates, config.source_batch_size, "PT")
        if "Multi-PT" in methods:
            yield self._joint("Multi-PT: mixture", config.multi_pt, "PT")
        if methods & {"MPT", "MPT-group"}:
            stage = self._joint("MPT: joint sources", config.mpt, "MPT sources", prompts=len(self.sources))
            if config.mpt.teaches and config.mpt.distilled == "outputs":
                stage = replace(stage, read_only=stage.trained_on)  # the teachers read the same rows
            yield stage
        if "BMTPT" in methods:
            count = config.bmtpt.particles
            stage = self._joint("BMTPT: particles", config.bmtpt, "particles", batch=bmtpt_rows(config))
            scaled = {name: getattr(stage, name) * count for name in ("trained_on", "written")}
            yield replace(stage, **scaled)

    def _joint(
        self,
        title: str,
        block: MultiPTConfig | MPTConfig | BMTPTConfig,
        kind: str,
        batch: int | None = None,
        prompts: int = 1,
    ) -> Stage:
        rows = _sum(task.train for task in self.sources)
        batch = batch or self.config.source_batch_size
        updates = None if rows is None else joint_updates(self.config, block, rows, batch)
        return self._stage(title, self.sources, updates, batch, kind, prompts=prompts, chosen=False)

    def _target_stages(self, methods: set[str], target: TaskFacts) -> Iterator[Stage]:
        own = self.config.for_task(target.name)
        budget = None if target.train is None else target_budget(own, target.train)
        total = None if budget is None else budget.total
        batch = own.batch_size
        if budget is not None and budget.own:
            batch = round((budget.own * own_rows(own) + budget.transfer * batch) / budget.total)
        own_prompts = set()
        for method in self.config.methods:
            if method in ("SPoT", "DTVG") and not transfers_related(own, method):
                first, second = _shares(own, method, budget)
                size = own_rows(own) if method == "DTVG" and budget is not None and budget.own else batch
                what = (first, size, own.dtvg.own_learning_rate if method == "DTVG" else None)
                if what not in own_prompts:  # equal ones are trained once
                    own_prompts.add(what)
                    yield self._stage(f"{target.name}: own prompt", [target], first, size, "PT")
                yield self._stage(f"{target.name}: {method}", [target], second, own.batch_size, method)
            elif transfers_related(own, method) and budget:
                first, _ = split_updates(budget.total, own.related.own_fraction)
                if ("related", first) not in own_prompts:
                    own_prompts.add(("related", first))
                    yield self._stage(f"{target.name}: first updates", [target], first, own.batch_size, "PT")
                yield self._stage(f"{target.name}: {method}", [target], total, batch, "related")
            elif method != "MPT-group" and not (method == "TPV" and not own.tpv.tune):
                yield self._stage(f"{target.name}: {method}", [target], total, batch, method)

    def _group(self) -> Stage:
        configs = [self.config.for_task(task.name) for task in self.targets]
        pairs = zip(configs, self.targets, strict=True)
        budgets = [None if task.train is None else target_budget(own, task.train).total for own, task in pairs]
        updates = None if None in budgets else max(budgets, default=0)
        batch = sum(own.batch_size for own in configs)
        return self._stage(
            f"{len(self.targets)} targets: MPT-group", self.targets, updates, batch, "MPT-group", len(self.targets)
        )

    def _scoring(self, methods: set[str]) -> Stage:
        config = self.config
        runs = [(task, len(config.seeds) * len(methods) + 1) for task in self.targets]  # and zero-shot
        if config.source_prompts:
            runs += [(task, 2 * (len(config.seeds) if config.retrain_sources else 1)) for task in self.sources]
        rows = _sum(None if task.test is None else task.test * times for task, times in runs)
        tokens = sum((task.test or 0) * times * (self._unshared + task.text + task.answer) for task, times in runs)
        return Stage("scoring", rows, 0, config.eval_batch_size, 0, read_only=tokens)

    def _stage(
        self,
        title: str,
        tasks: Sequence[TaskFacts],
        updates: int | None,
        batch: int,
        kind: str,
        prompts: int = 1,
        chosen: bool = True,
    ) -> Stage:
        """chosen: validation rows choose its prompt, where the settings ask for it."""
        length = self.config.prompt_length
        rows = _sum(task.train for task in tasks)
        text, answer = _mean(tasks, "text"), _mean(tasks, "answer")
        seq2seq = self.model is not None and self.model.seq2seq
        drops = self.config.dropout == "model" and self.model is not None and self.model.dropout
        shared = not seq2seq and kind != "ATTEMPT" and not drops  # rows of a causal model read a prompt once
        tokens = min(prompts, batch) * length + batch * text if shared else batch * (length + text)
        return Stage(
            title,
            rows,
            updates,
            batch,
            self._trained(kind),
            trained_on=tokens + (0 if seq2seq else batch * answer),
            read_only=self._choice(tasks) if chosen else 0.0,
            written=batch * answer if seq2seq else 0.0,
            longest=length + text,
        )

    def _choice(self, tasks: Sequence[TaskFacts]) -> float:
        """Tokens of validation rows, for each update."""
        if self.config.select_updates is None:
            return 0.0
        tokens = sum((task.validation or 0) * (self._unshared + task.text + task.answer) for task in tasks)
        return tokens / self.config.select_updates

    @property
    def _unshared(self) -> int:
        """Prompt tokens of a row that is scored: a causal model reads a prompt once for all rows."""
        return self.config.prompt_length if self.model is not None and self.model.seq2seq else 0

    def _trained(self, kind: str) -> int | None:
        """The formulas at the head of this file."""
        if self.model is None:
            return None
        config, length, hidden = self.config, self.config.prompt_length, self.model.hidden
        full, ends, known = length * hidden, length + hidden, len(self.sources)
        mpt, bmtpt, dtvg = config.mpt, config.bmtpt, config.dtvg
        if kind in ("MPT", "MPT-group", "MPT sources"):
            tasks = {"MPT": 1, "MPT-group": len(self.targets), "MPT sources": known}[kind]
            factors = tasks * mpt.rank * ends if mpt.decomposition else 0
            if kind == "MPT sources" or not mpt.decomposition:
                return full + factors
            return {"both": full + factors, "factors": factors}.get(mpt.trained, full)
        if kind == "particles":
            return bmtpt.particles * full
        if kind == "BMTPT":
            return full + (bmtpt.rank * ends if bmtpt.parametrisation == "factored" else 0)
        if kind == "related":  # at most; MPT and BMTPT have one scale per token
            return full + known * {"per-token": length, "scalar": 1, "none": 0}[dtvg.scaling]
        if kind == "DTVG" and dtvg.grouping != "spot":
            return full + {"per-token": (known + 1) * length, "scalar": known + 1, "none": 0}[dtvg.scaling]
        if kind == "ATTEMPT":
            return full + 2 * config.attempt.projection * hidden + 2 * hidden * config.attempt.train_norm
        return full


def transfers_related(config: RunConfig, method: str) -> bool:
    """Whether what related sources have learned joins the target's prompt tuning."""
    if method == "DTVG":
        return config.dtvg.grouping == "related"
    blocks = {"MPT": config.mpt, "BMTPT": config.bmtpt}
    return method in blocks and blocks[method].transfer_from == "related"


def _shares(config: RunConfig, method: str, budget: TargetBudget | None) -> tuple[int | None, int | None]:
    """Updates of the target's own prompt and of the stage after it."""
    if budget is None:
        return None, None
    if method == "DTVG" and budget.own:
        return budget.own, budget.transfer
    return split_updates(budget.total, config.dtvg.own_fraction if method == "DTVG" else config.spot.own_fraction)


def _sum(values: Iterator[int | None]) -> int | None:
    found = list(values)
    return None if None in found else sum(found)


def _mean(tasks: Sequence[TaskFacts], name: str) -> float:
    """Mean over the rows of the tasks; over the tasks where their rows are not known."""
    weights = [task.train or 0 for task in tasks]
    if not any(weights):
        weights = [1] * len(tasks)
    return sum(weight * getattr(task, name) for weight, task in zip(weights, tasks, strict=True)) / sum(weights)
