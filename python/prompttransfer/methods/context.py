"""Model, encoded tasks, budget and cached stages that every method works with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.store import StageResult, Store, key_hash, tensor_hash
from prompttransfer.interchange import Factors
from prompttransfer.methods.budget import target_budget, warmup_updates
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.sampler import row_batches
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.rows import EncodedRow, EncodedRows
from prompttransfer.models.scoring import Evaluation, evaluate
from prompttransfer.prompts import PromptModule, init_hash
from prompttransfer.settings.run import RunConfig
from prompttransfer.training.history import Curve, History
from prompttransfer.training.loggers import LoggedRun
from prompttransfer.training.plan import Objective, Plan
from prompttransfer.training.selection import Selection
from prompttransfer.training.trainer import train

# Part of every stage's key. Raise it when a code change alters what a stage computes.
CODE_VERSION = 5


@dataclass
class MethodResult:
    """A trained target prompt (L, H) and its cost.

    other_prompts: intermediate prompts (L, H), by name.
    module: scored in place of `prompt` if the prompt depends on the row; `prompt` is then its mean over the training
        rows.
    factors: MPT's factors of `prompt`.
    """

    prompt: Tensor
    trainable_parameters: int
    target_updates: int
    target_examples: int
    source_updates: int
    seconds: float
    history: History = field(default_factory=History)
    notes: str = ""
    other_prompts: dict[str, Tensor] = field(default_factory=dict)
    module: PromptModule | None = None
    factors: Factors | None = None

    @classmethod
    def of(
        cls, prompt: Tensor, *stages: StageResult, source_updates: int = 0, history: History | None = None, **more: Any
    ) -> MethodResult:
        """Build the result of consecutive stages on a target. The last one trained the prompt.

        Args:
            history: curves to add to the loss curve, which covers all stages.
            more: other fields, by name.
        """
        loss: Curve = []
        updates = 0
        for stage in stages:
            loss += [[updates + update, value] for update, value in stage.facts["loss"]]
            updates += stage.facts["updates"]
        return cls(
            prompt=prompt,
            trainable_parameters=stages[-1].facts["trainable_parameters"] if stages else 0,
            target_updates=updates,
            target_examples=sum(stage.facts["examples"] for stage in stages),
            source_updates=source_updates,
            seconds=sum(stage.facts["seconds"] for stage in stages),
            history={"loss": loss, **(history or {})},
            **more,
        )

    @property
    def evaluated(self) -> Tensor | PromptModule:
        """The prompt or module to score on the test rows."""
        return self.prompt if self.module is None else self.module


@dataclass
class Context:
    """Model, settings and sources of a run, for one seed.

    Args:
        start: P_init (L, H), shared by all tasks.
        seed: seed of the targets' few-shot rows and batches.
        source_seed: seed of the sources' batches.
        targets: all targets of the run with this seed's few-shot rows, for methods that adapt them together.
        run_config: settings of the run, where `config` holds those of a target; see `of`.
    """

    backbone: Backbone
    config: RunConfig
    store: Store
    progress: ProgressReporter
    sources: list[EncodedTask]
    start: Tensor
    seed: int
    source_seed: int
    targets: list[EncodedTask] = field(default_factory=list)
    run_config: RunConfig | None = None

    @property
    def start_hash(self) -> str:
        return init_hash(self.start)

    def plan(
        self,
        prompt: PromptModule,
        objective: Objective,
        rows: Sequence[EncodedRow],
        batches: Sequence[Sequence[int]],
        rate: float,
        judged: Sequence[EncodedTask] = (),
        **more: Any,
    ) -> Plan:
        """A plan with the run's optimizer settings.

        Args:
            judged: tasks whose validation rows choose the prompt to keep, if the settings ask for it; one per prompt
                of the module.
        """
        config = self.config
        settings: dict[str, Any] = {
            "schedule": config.schedule,
            "warmup_updates": warmup_updates(config, more.get("horizon") or len(batches)),
            "weight_decay": config.weight_decay,
        }
        held_out = [task.validation for task in judged if task.validation is not None]
        if held_out and config.select_updates is not None:
            settings["selection"] = Selection(held_out, config.select_updates, config.eval_batch_size)
        return Plan(
            prompt, objective, rows, batches, rate, **({"max_grad_norm": config.max_grad_norm} | settings | more)
        )

    def target_batches(self, target: EncodedTask) -> list[list[int]]:
        """Batches of the whole target budget, the same for every method.

        Updates that a method adds to every budget may have a different batch size.
        """
        config = self.of(target).config
        budget, size = target_budget(config, len(target.train)), config.batch_size
        if budget.own and budget.own_rows != size:
            own = self._batches(target, budget.own_rows, budget.own, self.seed)
            return own + self._batches(target, size, budget.transfer, (self.seed, 1))
        return self._batches(target, size, budget.total, self.seed)

    def _batches(self, target: EncodedTask, size: int, updates: int, seed: int | tuple[int, ...]) -> list[list[int]]:
        lengths = target.train.lengths
        # With few rows, long pools would put the same rows together in every batch.
        return row_batches(len(lengths), size, updates, seed, lengths=lengths, pool=2)

    def of(self, target: EncodedTask, method: str = "") -> Context:
        """This context with the settings of a target, and of a method on that target."""
        common = self.run_config or self.config
        return replace(self, config=common.for_task(target.name, method), run_config=common)

    def tune(
        self,
        title: str,
        prompt: PromptModule,
        target: EncodedTask,
        batches: Sequence[Sequence[int]] | None = None,
        *,
        objective: Objective = task_loss,
        settings: dict[str, Any] | None = None,
        rate: float | None = None,
        **more: Any,
    ) -> StageResult:
        """Train a prompt on a target's rows.

        Args:
            batches: None: those of the target's whole budget.
            settings: as in `run`.
            rate: peak learning rate; None: the target's.
            more: other fields of the plan.
        """
        batches = self.target_batches(target) if batches is None else batches
        rate = self.config.target_rate if rate is None else rate
        plan = self.plan(prompt, objective, target.train, batches, rate, [target], **more)
        return self.run(f"{target.name}: {title}", plan, settings)

    def run(
        self, title: str, plan: Plan, settings: dict[str, Any] | None = None, *, seed: int | None = None
    ) -> StageResult:
        """Train plan.prompt in place, or load it if the store has a stage with equal inputs.

        Args:
            settings: JSON values that the objective and before_step depend on in addition to the plan.
            seed: shown next to the title where the curve is logged; None: the seed of the targets.

        Returns:
            tensors: the prompt's state; facts: updates, examples, seconds, loss, history, trainable_parameters.
        """
        key = {
            "stage": "train",
            "version": CODE_VERSION,
            **self.backbone.identity,
            "plan": _plan_hash(plan),
            "settings": settings or {},
        }
        if plan.selection:
            key["selection"] = plan.selection.key
        if self.config.dropout == "model" and self.backbone.has_dropout:
            key["dropout"] = "model"
            plan.dropout = int(key_hash(key)[:8], 16)

        def compute(work: Path) -> StageResult:
            config, named = self.config, self.seed if seed is None else seed
            run = LoggedRun.of(config.report_to, config.output, title, named, key_hash(key))
            every = config.checkpoint_updates
            with closing(self.progress.stage(title, len(plan.batches))) as handle:
                log = train(self.backbone, plan, work, checkpoint_updates=every, advance=handle.advance, run=run)
            about = {"history": plan.prompt.history(), "trainable_parameters": plan.prompt.trainable_parameters()}
            return StageResult(dict(plan.prompt.state_dict()), vars(log) | about)

        result = self.store.cached(key, compute, title)
        if result.news and result.facts.get("kept"):
            update, score = result.facts["kept"]
            self.progress.note(f"{title}: kept the prompt of update {update}, {score:.1f} on validation rows")
        if result.reused:
            if result.news:
                self.progress.note(f"{title}: reused from the store")
            plan.prompt.load_state_dict(result.tensors)
            plan.prompt.restore_history(result.facts["history"])
        # Later steps compute on the CPU, whether the prompt was trained now or loaded from the store.
        plan.prompt.cpu()
        return result

    def evaluate(self, title: str, task: EncodedTask, prompt: Tensor | PromptModule | None) -> Evaluation:
        """Score a prompt (None: zero-shot) on the task's test rows, or load its score from the store."""
        key = {
            "stage": "evaluate",
            "version": CODE_VERSION,
            **self.backbone.identity,
            "prompt": _prompt_key(prompt),
            "rows": _hash((task.test, task.labels, task.answers, task.choices, task.references, *task.metrics)),
            "scoring": [task.scoring, task.max_answer],
        }

        def compute(work: Path) -> StageResult:
            size = self.config.eval_batch_size
            with closing(self.progress.stage(title, len(task.test))) as handle:
                evaluation = evaluate(self.backbone, prompt, task, batch_size=size, advance=handle.advance)
            return StageResult({}, vars(evaluation))

        return Evaluation(**self.store.cached(key, compute, title).facts)


def _hash(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def _prompt_state(prompt: PromptModule) -> tuple[str, list[tuple[str, str]]]:
    tensors = [*prompt.named_parameters(), *prompt.named_buffers()]
    return type(prompt).__name__, [(name, tensor_hash(tensor)) for name, tensor in tensors]


def _prompt_key(prompt: Tensor | PromptModule | None) -> str | None:
    if isinstance(prompt, PromptModule):
        return _hash(_prompt_state(prompt))
    return None if prompt is None else tensor_hash(prompt)


def _plan_hash(plan: Plan) -> str:
    """Hash every field of a plan, so that no setting is missing from a stage's key."""
    names = {id(parameter): name for name, parameter in plan.prompt.named_parameters()}
    groups = plan.groups or plan.prompt.parameter_groups(plan.learning_rate)
    rates = [(group["lr"], [names[id(parameter)] for parameter in group["params"]]) for group in groups]
    # Without the seed of dropout, which is derived from the stage's key.
    rest: tuple[Any, ...] = (plan.learning_rate, plan.schedule, plan.warmup_updates)
    rest += (plan.weight_decay, plan.max_grad_norm)
    rest += (("horizon", plan.horizon),) if plan.horizon else ()
    rest += (("offset", plan.offset),) if plan.offset else ()
    rows = EncodedRows.of(plan.rows).digest
    return _hash((*_prompt_state(plan.prompt), rates, rest, rows, [list(batch) for batch in plan.batches]))
