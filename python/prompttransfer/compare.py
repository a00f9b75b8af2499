"""`compare`: every method on every target and seed, at one target budget, into a run folder.

Finished stages come from the store, so an interrupted comparison, started again, goes on where it was. The results are
rewritten after every row and are complete at any time.
"""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prompttransfer import processes
from prompttransfer.config import WITHOUT_SOURCE_PROMPTS, RunConfig
from prompttransfer.encoding import EncodedTask
from prompttransfer.evaluation import Evaluation
from prompttransfer.interchange import Card, Factors, write_prompt, write_tensors
from prompttransfer.methods import METHODS, Context, MethodResult
from prompttransfer.methods.shared import source_prompt
from prompttransfer.models import Backbone
from prompttransfer.models.loading import load_model
from prompttransfer.progress import NullProgress
from prompttransfer.prompts import init_hash, initial_prompt
from prompttransfer.store import Store, default_folder, write_json
from prompttransfer.tasks import drop_leaks, load_task
from prompttransfer.tasks.scales import scale_of
from prompttransfer.tasks.task import Task

FORMAT = 1


def compare(config: RunConfig, progress: Any = None) -> Path:
    """Run the comparison and return the run folder. Of several processes, the main one writes and tells.

    Args:
        config: all settings.
        progress: an open `prompttransfer.progress.Progress`; none: nothing is shown.
    """
    progress = progress if progress and processes.is_main() else NullProgress()
    work = Workbench.open(config, progress)
    run = RunFolder(config, work.backbone, progress)
    contexts = {seed: work.context(seed) for seed in config.seeds}
    for index in range(len(config.targets)):
        for ctx in contexts.values():
            target = ctx.targets[index]
            run.save_prompt(f"prompts/P_init-seed{ctx.source_seed}.safetensors", ctx.start, init_hash=ctx.start_hash)
            run.add_sources(_source_rows(ctx, run) if set(config.methods) - WITHOUT_SOURCE_PROMPTS else [])
            zero_shot = ctx.evaluate(f"{target.name}: zero-shot", target, None)
            for method in config.methods:
                result = METHODS[method](ctx.of(target), target)
                found = ctx.evaluate(f"{target.name}: test of {method}", target, result.evaluated)
                run.add(method, target, ctx, result, result_row(method, target, ctx, result, found, zero_shot))
    return run.finish()


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
        """Load what the settings name."""
        backbone = load_backbone(config, progress)
        options = task_options(config) | {"progress": progress}
        targets = {name: load_task(name, **options) for name in config.targets}
        # What a source teaches must not hold the rows that a target is judged on.
        sources = [
            drop_leaks(load_task(name, **options), targets.values()).limit(config.source_rows)
            for name in (config.sources if config.transfers else ())
        ]

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
                raise ValueError(f"{kind} must have different names, got {', '.join(names)}")
        return cls(config, backbone, Store(config.cache or default_folder()), progress, sources, targets)

    def context(self, seed: int) -> Context:
        """Model, tasks and P_init for one seed."""
        config = self.config
        source_seed = seed if config.retrain_sources else config.seeds[0]
        sources = [EncodedTask.of(task, self.backbone, config.scoring, store=self.store) for task in self.source_tasks]
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
        task, rows = self.target_tasks[name], self.config.train_rows
        few = task if rows is None else task.few_shot(rows, seed)
        return EncodedTask.of(few, self.backbone, self.config.scoring, store=self.store)


def task_options(config: RunConfig) -> dict[str, Any]:
    """How a run's tasks are to be read."""
    names = ("text_column", "label_column", "answers", "data_dir", "bad_rows")
    return {name: getattr(config, name) for name in names}


def load_backbone(config: RunConfig, progress: Any) -> Backbone:
    """The model a run names; "demo" is fetched and converted once."""
    name: str | Path = config.model
    if name == "demo":
        from prompttransfer.assets import demo_model

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


class RunFolder:
    """config.json, results.json, results.csv, prompts/ and history/ of a run; written by the main process only."""

    def __init__(self, config: RunConfig, backbone: Backbone, progress: Any) -> None:
        self.config = config
        self.progress = progress
        self.folder = config.output
        self.model = {"model": config.model, "model_fingerprint": backbone.fingerprint}
        self.reading = {
            "architecture": "seq2seq" if backbone.seq2seq else "causal",
            "placement": backbone.placement,
            "precision": backbone.precision,
            "max_length": config.max_length,
        }
        self.machine = machine_facts(backbone)
        self.sources: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        if processes.is_main():
            self._keep_other_results()
            write_json(self.folder / "config.json", config.model_dump(mode="json"))
        self._write(finished=False)

    def _keep_other_results(self) -> None:
        """Results of other settings move aside, so that no folder mixes two runs and none is lost."""
        try:
            before = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if before == self.config.model_dump(mode="json"):
            return
        free = next(n for n in count(1) if not self.folder.with_name(f"{self.folder.name}-{n}").exists())
        aside = self.folder.with_name(f"{self.folder.name}-{free}")
        self.folder.rename(aside)
        self.progress.note(f"{self.folder} holds results of other settings: moved to {aside}")

    def add_sources(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows about source prompts that are not there yet."""
        known = {(row["source"], row["seed"]) for row in self.sources}
        self.sources += [row for row in rows if (row["source"], row["seed"]) not in known]
        self._write(finished=False)

    def card(self, **facts: Any) -> dict[str, str]:
        """Metadata of a prompt file: the model, and what is known of the prompt (fields of `Card`)."""
        return Card(**{**self.model, **self.reading, **facts}).metadata()

    def save_prompt(self, path: str, prompt: Tensor, factors: Factors | None = None, **facts: Any) -> str:
        """Write a prompt with its origin; returns its path in the run folder."""
        if processes.is_main():
            write_prompt(self.folder / path, prompt, self.card(**facts), factors)
        return path

    def add(
        self,
        method: str,
        target: EncodedTask,
        ctx: Context,
        result: MethodResult,
        row: dict[str, Any],
    ) -> None:
        """Add a finished row with its prompt and history."""
        if not processes.is_main():
            return
        stem = f"{target.name}-seed{ctx.seed}"
        origin = {"init_hash": ctx.start_hash, "method": method, "seed": ctx.seed, **task_facts(target)}
        scored = {"score": row["score"]}
        path = f"prompts/{method}/{stem}.safetensors"
        if result.module is None:
            self.save_prompt(path, result.prompt, result.factors, **origin, **scored)
        else:
            self.save_prompt(path, result.prompt, **origin)
            file = self.folder / f"prompts/{method}/{stem}-module.safetensors"
            write_tensors(file, result.module.tensors(), self.card(**origin, **scored))
        for name, prompt in result.other_prompts.items():
            self.save_prompt(f"prompts/{method}/{stem}-{name}.safetensors", prompt, **origin)
        write_json(self.folder / "history" / f"{method}-{stem}.json", result.history)
        self.rows.append(row | {"prompt": path})
        self._write(finished=False)

    def finish(self) -> Path:
        self._write(finished=True)
        return self.folder

    def _write(self, finished: bool) -> None:
        if not processes.is_main():
            return
        results = {
            "format": FORMAT,
            **self.model,
            **self.machine,
            "settings": self.config.model_dump(mode="json"),
            "sources": self.sources,
            "rows": self.rows,
            "finished": finished,
        }
        write_json(self.folder / "results.json", results)
        temporary = self.folder / ".results.csv"
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.rows[0]) if self.rows else ["method"])
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(temporary, self.folder / "results.csv")


def task_facts(task: EncodedTask) -> dict[str, Any]:
    """How a prompt's task reads and answers a text: fields of `Card`."""
    facts: dict[str, Any] = {
        "task": task.name,
        "metric": task.metric,
        "scoring": task.scoring,
        "choices": task.choices,
        "max_length": task.max_length,
        "cut": task.cut,
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
        "other_scores": other_scores(found),
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
        "notes": result.notes,
    }


def other_scores(found: Evaluation) -> str:
    """Such as "f1 81.2, macro-f1 79.0"."""
    return ", ".join(f"{metric} {scale_of(metric).text(score)}" for metric, score in found.more.items())


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
        "other_scores": other_scores(found),
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


def _source_rows(ctx: Context, run: RunFolder) -> Iterable[dict[str, Any]]:
    known = {(row["source"], row["seed"]) for row in run.sources}
    for source in ctx.sources:
        if (source.name, ctx.source_seed) in known:
            continue
        row, prompt = source_row(ctx, source)
        path = run.save_prompt(
            f"prompts/sources/{source.name}-seed{ctx.source_seed}.safetensors",
            prompt,
            init_hash=init_hash(ctx.start),
            method="PT",
            seed=ctx.source_seed,
            score=row["score"],
            **task_facts(source),
        )
        yield row | {"prompt": path}


def machine_facts(backbone: Backbone) -> dict[str, Any]:
    """Commit, machine and versions, as they stand in results.json."""
    packages = ("torch", "transformers", "datasets", "accelerate", "safetensors")
    device = backbone.device
    return {
        "commit": _commit(),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "precision": backbone.precision,
        },
        "versions": {name: version(name) for name in packages},
    }


def _commit() -> str:
    """Commit of the checkout this file stands in; empty for an installed copy."""
    folder = Path(__file__).resolve().parent
    try:
        inside = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name], cwd=folder, capture_output=True
        )
        if inside.returncode:
            return ""
        return subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
