"""The jobs of a run. Each produces a row of the results, with its files."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from prompttransfer.files.durable import file_hash
from prompttransfer.files.paths import anywhere
from prompttransfer.files.store import key_hash
from prompttransfer.interchange import Card
from prompttransfer.methods import METHODS, Context
from prompttransfer.methods.base import Method
from prompttransfer.methods.context import CODE_VERSION
from prompttransfer.methods.shared import source_prompt
from prompttransfer.models.encoding import EncodedTask
from prompttransfer.runs.rows import SourceRow, TargetRow, source_name, target_name
from prompttransfer.runs.run_folder import JobOutput, PromptFile
from prompttransfer.settings.run import WITHOUT_EFFECT, RunConfig


@dataclass(frozen=True)
class SourceJob:
    """The prompt of a source, scored on the source itself."""

    ctx: Context
    source: EncodedTask

    @property
    def name(self) -> str:
        return source_name(self.source.name, self.ctx.source_seed)

    @property
    def key(self) -> str:
        return key_hash({**_common_key(self.ctx), "source": self.source.digest})

    def do(self) -> JobOutput:
        row, prompt = score_source(self.ctx, self.source)
        path = f"prompts/{self.name}.safetensors"
        card = card_of(
            self.ctx, self.source, method="PT", seed=self.ctx.source_seed, score=row.score, scores=row.baselines
        )
        return JobOutput(replace(row, prompt=path), {path: PromptFile(prompt, card)})


def score_source(ctx: Context, source: EncodedTask) -> tuple[SourceRow, Tensor]:
    """Train a source prompt and score it on its own task; return the row and the prompt (L, H)."""
    prompt, stage = source_prompt(ctx, source)
    evaluation = ctx.evaluate(f"source {source.name}: test", source, prompt)
    zero_shot = ctx.evaluate(f"source {source.name}: zero-shot", source, None)
    return SourceRow.of(source, ctx.source_seed, stage, evaluation, zero_shot), prompt


@dataclass(frozen=True)
class TargetJob:
    """A method on a target, for one seed."""

    ctx: Context
    target: EncodedTask
    method: str

    @property
    def name(self) -> str:
        return target_name(self.method, self.target.name, self.ctx.seed)

    @property
    def trains_sources(self) -> bool:
        """Whether its method has a stage on all sources together."""
        return type(METHODS[self.method]).source_stages is not Method.source_stages

    @property
    def group(self) -> str:
        """Group of jobs that share their first stages: all methods on this target and seed."""
        return f"{self.target.name}-seed{self.ctx.seed}"

    @property
    def key(self) -> str:
        ctx = self.ctx
        method = METHODS[self.method]
        code = "" if type(method).__module__.startswith("prompttransfer.") else _code_hash(type(method).run)
        tasks = {"target": self.target.digest, "all": [task.digest for task in (*ctx.sources, *ctx.targets)]}
        return key_hash({**_common_key(ctx), "method": self.method, "code": code, "seed": ctx.seed, **tasks})

    def do(self) -> JobOutput:
        ctx, target, method = self.ctx, self.target, self.method
        zero_shot = ctx.evaluate(f"{target.name}: zero-shot", target, None)
        result = METHODS[method].run(ctx.of(target, method), target)
        evaluation = ctx.evaluate(f"{target.name}: test of {method}", target, result.evaluated)
        stem = f"prompts/{method}/{target.name}-seed{ctx.seed}"
        path = f"{stem}.safetensors"
        row = replace(TargetRow.of(method, target, ctx.seed, result, evaluation, zero_shot), prompt=path)
        card = card_of(ctx, target, method=method, seed=ctx.seed)
        scored = card_of(ctx, target, method=method, seed=ctx.seed, score=row.score, scores=row.baselines)
        files = {
            f"{stem}-{name}.safetensors": PromptFile(prompt, card) for name, prompt in result.other_prompts.items()
        }
        if result.module is None:
            files[path] = PromptFile(result.prompt, scored, result.factors)
        else:
            files[path] = PromptFile(result.prompt, card)
            files[f"{stem}-module.safetensors"] = PromptFile(result.module.tensors(), scored)
        return JobOutput(row, files, {f"history/{row.name}.json": result.history})


def jobs_of(config: RunConfig, contexts: list[Context]) -> Iterator[SourceJob | TargetJob]:
    """All jobs, sources first, because others wait for them. Contexts that share a source seed repeat its jobs."""
    if config.source_prompts:
        for ctx in contexts:
            yield from (SourceJob(ctx, source) for source in ctx.sources)
    for index in range(len(config.targets)):
        for ctx in contexts:
            yield from (TargetJob(ctx, ctx.targets[index], method) for method in config.methods)


def shared_jobs(jobs: Iterable[SourceJob | TargetJob]) -> list[str]:
    """Jobs that other jobs depend on: the sources, and the first job of each method with a stage on all sources."""
    shared, begun = [], set()
    for job in jobs:
        if isinstance(job, TargetJob):
            stage = (job.method, job.ctx.source_seed)
            if stage in begun or not job.trains_sources:
                continue
            begun.add(stage)
        shared.append(job.name)
    return shared


def working_order(jobs: Sequence[SourceJob | TargetJob]) -> list[str]:
    """Order jobs: first those that others need, then those that may train on (related) sources again. A long stage at
    the end would keep one worker busy and the others idle."""
    long = (job.name for job in jobs if isinstance(job, TargetJob) and job.trains_sources)
    return list(dict.fromkeys((*shared_jobs(jobs), *long, *(job.name for job in jobs))))


def card_of(ctx: Context, task: EncodedTask | None = None, **facts: Any) -> Card:
    """Card of a prompt: its model and P_init, how its task reads and answers a text, and `facts`."""
    backbone, config = ctx.backbone, ctx.config
    return Card(
        model=anywhere(config.model),
        model_fingerprint=backbone.fingerprint,
        architecture="seq2seq" if backbone.seq2seq else "causal",
        placement=backbone.placement,
        precision=backbone.precision,
        init_hash=ctx.start_hash,
        **{"max_length": config.max_length, **(task_facts(task) if task else {}), **facts},
    )


def task_facts(task: EncodedTask) -> dict[str, Any]:
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


def _common_key(ctx: Context) -> dict[str, Any]:
    """Part of the key that every row depends on."""
    return {
        "version": CODE_VERSION,
        **ctx.backbone.identity,
        "settings": ctx.config.model_dump(mode="json", exclude=set(WITHOUT_EFFECT)),
        "start": ctx.start_hash,
    }


def _code_hash(method: Any) -> str:
    """Hash of the file of a user's own method, which may change while settings and data stay the same."""
    file = inspect.getsourcefile(method)
    return file_hash(Path(file)) if file else ""
