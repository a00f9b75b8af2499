"""`compare`: every method on every target and seed, at one target budget, into a run folder.

The rows are jobs that any number of processes share (`runs.work_list`). Finished stages come from the store,
so a comparison that was interrupted goes on where it was, whoever goes on with it.
"""

from __future__ import annotations

import gc
import hashlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from prompttransfer.distributed import processes
from prompttransfer.files.progress import NullProgress
from prompttransfer.files.store import Store, default_folder, key_hash
from prompttransfer.methods import METHODS, Context, MethodResult
from prompttransfer.methods.context import CODE_VERSION
from prompttransfer.methods.shared import source_prompt
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.loading import load_model
from prompttransfer.models.scoring import Evaluation
from prompttransfer.prompts import initial_prompt
from prompttransfer.runs.run_folder import PLACES, Made, PromptFile, RunFolder
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks import drop_leaks_of, load_task
from prompttransfer.tasks.task import Task


def compare(config: RunConfig, progress: Any = None) -> Path:
    """Run the comparison and return the run folder.

    Started several times at once, the runs share the rows. Of the several processes of a launcher, which share every
    batch, the main one takes part in that, writes and tells.

    Args:
        config: all settings.
        progress: an open `prompttransfer.files.progress.Progress`; none: nothing is shown.

    Raises:
        ValueError: others are at work in the run folder with other settings or data.
    """
    progress = progress if progress and processes.is_main() else NullProgress()
    work = Workbench.open(config, progress)
    contexts = [work.context(seed) for seed in config.seeds]
    jobs = {job.name: job for job in _jobs(config, contexts)}
    keys = {name: job.key for name, job in jobs.items()}
    with (
        _tasks_never_garbage(),
        RunFolder(config, work.backbone, progress, keys) if processes.is_main() else nullcontext() as run,
    ):
        if run:
            for ctx in contexts:
                path = f"prompts/P_init-seed{ctx.source_seed}.safetensors"
                run.save_prompt(path, ctx.start, init_hash=ctx.start_hash)
        for name in processes.follow(run.jobs() if run else ()):
            made = jobs[name].do()
            if run:
                run.add(name, made)
        if run:
            run.collect()
    return config.output


@contextmanager
def _tasks_never_garbage() -> Iterator[None]:
    """What is loaded stays: every stage ends with a garbage collection, which need not look through all tasks again."""
    others_freeze = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not others_freeze:
            gc.unfreeze()


@dataclass(frozen=True)
class SourceJob:
    """The prompt of a source, judged on the source itself."""

    ctx: Context
    source: EncodedTask

    @property
    def name(self) -> str:
        return f"sources/{self.source.name}-seed{self.ctx.source_seed}"

    @property
    def key(self) -> str:
        return key_hash({**_common_key(self.ctx), "source": self.source.digest})

    def do(self) -> Made:
        ctx, source = self.ctx, self.source
        row, prompt = source_row(ctx, source)
        path = f"prompts/{self.name}.safetensors"
        facts = {"init_hash": ctx.start_hash, "method": "PT", "seed": ctx.source_seed, **task_facts(source)}
        return Made(row | {"prompt": path}, {path: PromptFile(prompt, facts | {"score": row["score"]})})


@dataclass(frozen=True)
class TargetJob:
    """A method on a target, for one seed."""

    ctx: Context
    target: EncodedTask
    method: str

    @property
    def name(self) -> str:
        return f"{self.method}-{self.target.name}-seed{self.ctx.seed}"

    @property
    def key(self) -> str:
        ctx = self.ctx
        method = METHODS[self.method]
        code = "" if type(method).__module__.startswith("prompttransfer.") else _code_hash(type(method).run)
        tasks = {"target": self.target.digest, "all": [task.digest for task in (*ctx.sources, *ctx.targets)]}
        return key_hash({**_common_key(ctx), "method": self.method, "code": code, "seed": ctx.seed, **tasks})

    def do(self) -> Made:
        ctx, target, method = self.ctx, self.target, self.method
        zero_shot = ctx.evaluate(f"{target.name}: zero-shot", target, None)
        result = METHODS[method].run(ctx.of(target, method), target)
        found = ctx.evaluate(f"{target.name}: test of {method}", target, result.evaluated)
        row = result_row(method, target, ctx, result, found, zero_shot)
        stem = f"prompts/{method}/{target.name}-seed{ctx.seed}"
        path = f"{stem}.safetensors"
        facts = {"init_hash": ctx.start_hash, "method": method, "seed": ctx.seed, **task_facts(target)}
        scored = facts | {"score": row["score"]}
        files = {
            f"{stem}-{name}.safetensors": PromptFile(prompt, facts) for name, prompt in result.other_prompts.items()
        }
        if result.module is None:
            files[path] = PromptFile(result.prompt, scored, result.factors)
        else:
            files[path] = PromptFile(result.prompt, facts)
            files[f"{stem}-module.safetensors"] = PromptFile(result.module.tensors(), scored)
        return Made(row | {"prompt": path}, files, {f"history/{self.name}.json": result.history})


def _jobs(config: RunConfig, contexts: list[Context]) -> Iterator[SourceJob | TargetJob]:
    """The sources first: what others wait for. A source seed that contexts share comes once for each, equal."""
    if config.source_prompts:
        for ctx in contexts:
            yield from (SourceJob(ctx, source) for source in ctx.sources)
    for index in range(len(config.targets)):
        for ctx in contexts:
            yield from (TargetJob(ctx, ctx.targets[index], method) for method in config.methods)


def _common_key(ctx: Context) -> dict[str, Any]:
    """What every row depends on."""
    return {
        "version": CODE_VERSION,
        **ctx.backbone.identity,
        "settings": ctx.config.model_dump(mode="json", exclude=set(PLACES)),
        "start": ctx.start_hash,
    }


def _code_hash(method: Any) -> str:
    """Of the file of a method that is not the package's: it may change while settings and data stay."""
    file = inspect.getsourcefile(method)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


@dataclass
class Workbench:
    """The loaded model and tasks of a run."""

    config: RunConfig
    backbone: Backbone
    store: Store
    progress: Any
    source_tasks: list[Task]
    target_tasks: dict[str, Task]

    @classmethod
    def open(cls, config: RunConfig, progress: Any) -> Workbench:
        """Load what the settings name; the model last, since mistakes in tables are found sooner."""
        options = task_options(config) | {"progress": progress}
        targets = {name: load_task(name, **options) for name in config.targets}
        # What a source teaches must not hold the rows that a target is judged on.
        sources = [load_task(name, **options) for name in (config.sources if config.transfers else ())]
        sources = [task.limit(config.source_rows) for task in drop_leaks_of(sources, targets.values())]

        def judged(task: Task) -> Task:
            task = task.on_validation() if config.evaluate_on == "validation" else task
            task = replace(task, max_length=config.length_of(task.name) or task.max_length)
            return task.limit(test_rows=config.test_rows)

        targets = {name: judged(task) for name, task in targets.items()}
        sources = [judged(task) for task in sources]
        # A source may be a target as well: its own test rows are then no training rows of it.
        for kind, tasks in (("sources", sources), ("targets", targets.values())):
            names = [task.name for task in tasks]
            if len(set(names)) < len(names):
                raise ValueError(
                    f"{kind} must have different names, got {', '.join(names)}; a task is named after its file, or by "
                    "`name` in a YAML description"
                )
        backbone = load_backbone(config, progress)
        if config.dropout == "model" and not backbone.has_dropout:
            progress.note("dropout: the model has none of its own, so there is none in training")
        return cls(config, backbone, Store(config.cache or default_folder(), progress.note), progress, sources, targets)

    def context(self, seed: int) -> Context:
        """Model, tasks and P_init for one seed."""
        config = self.config
        first = config.seeds[0] if config.source_seed is None else config.source_seed
        source_seed = seed if config.retrain_sources else first
        sources = [self._encoded(task) for task in self.source_tasks]
        start = initial_prompt(
            self.backbone,
            config.prompt_length,
            config.init,
            seed=source_seed,
            text=config.init_text,
            labels=[label for task in (*self.source_tasks, *self.target_tasks.values()) for label in task.choices],
        )
        targets = [self.target(name, seed) for name in config.targets]
        return Context(self.backbone, config, self.store, self.progress, sources, start, seed, source_seed, targets)

    def target(self, name: str, seed: int) -> EncodedTask:
        """A target with its few-shot rows of this seed."""
        task, rows, config = self.target_tasks[name], self.config.train_rows, self.config
        few = task if rows is None else task.few_shot(rows, seed)
        settings = (METHODS[method].validation_setting(config) for method in config.methods)
        return self._encoded(few, next(filter(None, settings), None))

    def _encoded(self, task: Task, setting: str | None = None) -> EncodedTask:
        """A task in the model's tokens, with its validation rows where a setting wants to look at them."""
        encoded = EncodedTask.of(task, self.backbone, self.config.scoring, store=self.store)
        tell_unknown(encoded, self.progress)
        setting = setting or ("select_updates" if self.config.select_updates is not None else None)
        if setting is None:
            return encoded
        if not len(task.validation):
            raise ValueError(
                f"task {task.name!r} has no validation rows for {setting} to look at; evaluate_on 'validation' "
                "scores on them, and a table needs 10 rows to be split"
            )
        held_out = replace(task, train=task.train.select([])).on_validation().limit(test_rows=self.config.test_rows)
        return replace(encoded, validation=EncodedTask.of(held_out, self.backbone, self.config.scoring, trains=False))


def task_options(config: RunConfig) -> dict[str, Any]:
    """How a run's tasks are to be read."""
    names = ("text_column", "label_column", "answers", "cue", "join", "data_dir", "bad_rows")
    return {name: getattr(config, name) for name in names}


def load_backbone(config: RunConfig, progress: Any) -> Backbone:
    """The model a run names; "demo" is fetched and converted once."""
    name: str | Path = config.model
    if name == "demo":
        from prompttransfer.files.assets import demo_model

        name = demo_model(progress)
    progress.note(f"model: {config.model}")
    return load_model(
        name,
        precision=config.precision,
        max_length=config.max_length,
        placement=config.placement,
        checkpointing=config.checkpointing,
        quantization=config.quantization,
        sharded=config.shard_model,
    )


def task_facts(task: EncodedTask) -> dict[str, Any]:
    """How a prompt's task reads and answers a text: fields of `Card`."""
    facts: dict[str, Any] = {
        "task": task.name,
        "metric": task.metric,
        "scoring": task.scoring,
        "choices": task.choices,
        "max_length": task.max_length,
        "cut": task.cut,
        "cue": task.cue,
        "join": task.join,
    }
    if not task.choices:
        facts["max_answer"] = task.max_answer
    return facts | (vars(task.wording) if task.wording else {})


def result_row(
    method: str, target: EncodedTask, ctx: Context, result: MethodResult, found: Evaluation, zero_shot: Evaluation
) -> dict[str, Any]:
    """A row of the results: a score with what it has to be compared with and what it cost."""
    return {
        "method": method,
        "target": target.name,
        "seed": ctx.seed,
        "metric": target.metric,
        "scoring": target.scoring,
        "score": found.score,
        "other_scores": found.more,
        "majority": found.majority,
        "zero_shot": zero_shot.score,
        "collapsed": found.collapsed,
        "test_rows": found.rows,
        "train_rows": len(target.train),
        "leaked_rows": target.leaked,
        "skipped_rows": target.skipped,
        "trainable_parameters": result.trainable_parameters,
        "target_updates": result.target_updates,
        "target_examples": result.target_examples,
        "source_updates": result.source_updates,
        "seconds": round(result.seconds, 3),
        "notes": "; ".join(filter(None, (result.notes, unknown_note(target)))),
    }


def tell_unknown(task: EncodedTask, progress: Any) -> None:
    """A warning where texts of a task say nothing to the model."""
    if task.unknown:
        progress.warn(f"note: {unknown_note(task)}")


def unknown_note(task: EncodedTask) -> str:
    """Such as "12 of 40 texts of reviews are mostly characters that this model's vocabulary lacks"; empty for none."""
    if not task.unknown:
        return ""
    texts = f"{task.unknown} of {len(task.train) + len(task.test)} texts of {task.name}"
    return f"{texts} are mostly characters that this model's vocabulary lacks"


def source_row(ctx: Context, source: EncodedTask) -> tuple[dict[str, Any], Tensor]:
    """How a source prompt does on its own task, and that prompt (L, H)."""
    prompt, result = source_prompt(ctx, source)
    found = ctx.evaluate(f"source {source.name}: test", source, prompt)
    zero_shot = ctx.evaluate(f"source {source.name}: zero-shot", source, None)
    row = {
        "source": source.name,
        "seed": ctx.source_seed,
        "metric": source.metric,
        "scoring": source.scoring,
        "score": found.score,
        "other_scores": found.more,
        "majority": found.majority,
        "zero_shot": zero_shot.score,
        "collapsed": found.collapsed,
        "test_rows": found.rows,
        "train_rows": len(source.train),
        "leaked_rows": source.leaked,
        "skipped_rows": source.skipped,
        "updates": result.facts["updates"],
        "seconds": round(result.facts["seconds"], 3),
    }
    return row, prompt
