"""The loaded model and tasks of a run, and the rows that each seed draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prompttransfer.files.progress import ProgressReporter
from prompttransfer.files.store import Store, default_folder
from prompttransfer.methods import METHODS, Context
from prompttransfer.models import Backbone
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.models.loading import load_model
from prompttransfer.prompts import initial_prompt
from prompttransfer.settings.run import RunConfig
from prompttransfer.tasks import drop_leaks_of, load_task
from prompttransfer.tasks.task import Task


@dataclass(frozen=True)
class RunTasks:
    """The tasks of a run. Sources have no rows that overlap with scored rows of targets."""

    sources: tuple[Task, ...]
    targets: Mapping[str, Task]


def read_tasks(config: RunConfig, progress: ProgressReporter) -> RunTasks:
    """Load the tasks that the settings name.

    Raises:
        ValueError: two sources or two targets have the same name.
    """
    options = task_options(config) | {"progress": progress}
    targets = {name: load_task(name, **options) for name in config.targets}
    # A source must not contain rows on which a target is scored.
    sources = [load_task(name, **options) for name in (config.sources if config.transfers else ())]
    sources = [task.limit(config.source_rows) for task in drop_leaks_of(sources, targets.values())]

    def judged(task: Task) -> Task:
        task = task.on_validation() if config.evaluate_on == "validation" else task
        task = replace(task, max_length=config.length_of(task.name) or task.max_length)
        return task.limit(test_rows=config.test_rows)

    targets = {name: judged(task) for name, task in targets.items()}
    sources = [judged(task) for task in sources]
    # A source may also be a target. Its own test rows must not be training rows then.
    for kind, tasks in (("sources", sources), ("targets", targets.values())):
        names = [task.name for task in tasks]
        if len(set(names)) < len(names):
            raise ValueError(
                f"{kind} must have different names, got {', '.join(names)}; a task is named after its file, or by "
                "`name` in a YAML description"
            )
    return RunTasks(tuple(sources), targets)


class Workbench:
    """The loaded model and tasks of a run.

    Args:
        tasks: return value of `read_tasks`, if it was called before.
        store: store of finished stages; None: the one in the settings.
        model: folder to load the model from, if it differs from the settings.
    """

    def __init__(
        self,
        config: RunConfig,
        progress: ProgressReporter,
        tasks: RunTasks | None = None,
        *,
        store: Store | None = None,
        model: Path | None = None,
    ) -> None:
        self.config, self.progress = config, progress
        self.tasks = tasks or read_tasks(config, progress)  # before the model, so that errors in tables show first
        self.backbone = load_backbone(model or config.model, progress, **model_options(config))
        if config.dropout == "model" and not self.backbone.has_dropout:
            progress.note("dropout: the model has none, so training uses none")
        self.store = store or Store(config.cache or default_folder(), progress.note)

    def context(self, seed: int) -> Context:
        """Model, tasks and P_init for one seed."""
        config = self.config
        first = config.seeds[0] if config.source_seed is None else config.source_seed
        source_seed = seed if config.retrain_sources else first
        sources = [self._encoded(task) for task in self.tasks.sources]
        start = initial_prompt(
            self.backbone,
            config.prompt_length,
            config.init,
            seed=source_seed,
            text=config.init_text,
            labels=[label for task in (*self.tasks.sources, *self.tasks.targets.values()) for label in task.choices],
        )
        targets = [self.target(name, seed) for name in config.targets]
        return Context(self.backbone, config, self.store, self.progress, sources, start, seed, source_seed, targets)

    def target(self, name: str, seed: int) -> EncodedTask:
        """A target with its few-shot rows of this seed."""
        task, rows, config = self.tasks.targets[name], self.config.train_rows, self.config
        few = task if rows is None else task.few_shot(rows, seed)
        settings = (METHODS[method].validation_setting(config) for method in config.methods)
        return self._encoded(few, next(filter(None, settings), None))

    def _encoded(self, task: Task, setting: str | None = None) -> EncodedTask:
        """Encode a task, with its validation rows if a setting needs them."""
        encoded = EncodedTask.of(task, self.backbone, self.config.scoring, store=self.store)
        warn_unknown(encoded, self.progress)
        setting = setting or ("select_updates" if self.config.select_updates is not None else None)
        if setting is None:
            return encoded
        if not len(task.validation):
            raise ValueError(
                f"task {task.name!r} has no validation rows, which {setting} needs; evaluate_on 'validation' scores on "
                "them instead, and a table needs 10 rows to be split"
            )
        held_out = replace(task, train=task.train.select([])).on_validation().limit(test_rows=self.config.test_rows)
        return replace(encoded, validation=EncodedTask.of(held_out, self.backbone, self.config.scoring, trains=False))


def task_options(config: RunConfig) -> dict[str, Any]:
    """Options of `load_task` from a run's settings."""
    names = ("text_column", "label_column", "answers", "cue", "join", "data_dir", "bad_rows")
    return {name: getattr(config, name) for name in names}


def model_options(config: RunConfig) -> dict[str, Any]:
    """Options of `load_model` from a run's settings."""
    names = ("precision", "max_length", "placement", "checkpointing", "cuda_graphs", "quantization")
    return {name: getattr(config, name) for name in names} | {"sharded": config.shard_model}


def load_backbone(name: str | Path, progress: ProgressReporter, **options: Any) -> Backbone:
    """Load the model of a run or of a prompt. options: options of `load_model`."""
    folder = model_source(name, progress)
    progress.note(f"model: {name}")
    return load_model(folder, **options)


def model_source(name: str | Path, progress: ProgressReporter) -> str | Path:
    """Hub id or folder for a model's name. "demo" is downloaded and converted if necessary."""
    if name != "demo":
        return name
    from prompttransfer.files.assets import demo_model

    return demo_model(progress)


def warn_unknown(task: EncodedTask, progress: ProgressReporter) -> None:
    """Warn if texts of a task are mostly unknown to the model's vocabulary."""
    if task.unknown:
        progress.warn(f"note: {task.unknown_note}")
