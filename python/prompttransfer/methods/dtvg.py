"""DTVG (2025): merge the target's task vector with those of a source group, regrouped at every forward.

Stage 1: prompts of all sources and of the target, from one P_init. Stage 2: train the target's prompt and per-token
scales of all vectors through the merged prompt. The source vectors stay frozen. The final prompt is the merged one.

The published code chooses among the prefixes of a ranking by consistency alone; the paper's objective adds similarity
to the target. `DTVGConfig` has settings for both, for the exact search and for the code's ablations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator

from prompttransfer.methods import related
from prompttransfer.methods.base import Method, Scope, SizedTask, Stage, check_fraction
from prompttransfer.methods.budget import target_budget, updates_of_epochs
from prompttransfer.methods.context import Context, EncodedTask, MethodResult
from prompttransfer.methods.shared import after_own, own_prompt, own_share, source_prompts
from prompttransfer.methods.spot import from_nearest
from prompttransfer.prompts import GroupedPrompt, group_rule
from prompttransfer.prompts.grouping import MAX_SOURCES
from prompttransfer.settings.base import Presets
from prompttransfer.settings.run import RunConfig


class DTVGConfig(Presets):
    """DTVG (2025): task vectors from one start, per-token scales, regrouping at every forward."""

    block: ClassVar[str] = "dtvg"
    variants: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"rule": "best-prefix"}}
    ablations: ClassVar[dict[str, dict[str, Any]]] = {
        "positive-filter": {"rule": "positive"},
        "max-consistency": {"rule": "consistent-subset", "positive_only": False},
        "target-only": {"grouping": "none"},
        "no-grouping": {"grouping": "all"},
        "fixed-group": {"grouping": "fixed"},
        "spot": {"grouping": "spot"},
        "dynamic-spot": {"grouping": "spot"},
        "no-scaling": {"scaling": "none"},
    }

    variant: Literal["paper", "code"] = "code"
    """Version to follow where paper and published code differ. paper sets rule to 'best-prefix' (similarity + lambda *
    consistency), unless it is given."""
    ablation: Literal[
        "none",
        "positive-filter",
        "max-consistency",
        "target-only",
        "no-grouping",
        "fixed-group",
        "spot",
        "dynamic-spot",
        "no-scaling",
    ] = "none"
    """An ablation of the published code, in which spot and dynamic-spot compute the same. no-scaling is ours."""
    own_fraction: float = Field(0.5, gt=0, lt=1)
    """Fraction of target_updates that trains the target's own vector."""
    own_updates: int | None = Field(None, ge=1)
    """Number of updates for the target's own vector, on top of the target's budget. Every method gets these extra
    updates, and DTVG's transfer stage then has the whole budget. Default: own_fraction is used."""
    own_epochs: float | None = Field(None, gt=0)
    """Epochs over the target's training rows for its own vector. Replaces own_updates."""
    own_batch_size: int | None = Field(None, ge=1)
    """Number of rows per update of own_updates or own_epochs, for every method. Default: batch_size, as in the transfer
    stage."""
    own_learning_rate: float | None = Field(None, gt=0)
    """Learning rate of the target's own vector. Default: target_learning_rate."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay in the transfer stage. Default: weight_decay of the run."""
    grouping: Literal["dynamic", "fixed", "all", "none", "spot"] = "dynamic"
    """Group of sources to merge. dynamic: chosen at every forward pass. fixed: chosen at the first one. all, none: all
    sources, or none. spot: no merging; prompt tuning from the source prompt nearest to the target's own."""
    rule: Literal["consistent-prefix", "best-prefix", "best-subset", "consistent-subset", "positive", "nearest"] = (
        "consistent-prefix"
    )
    """How the group is chosen. prefix: among the prefixes of the sources ranked by similarity to the target. subset:
    among all subsets. best: highest similarity + lambda * consistency. consistent: highest consistency. positive: every
    source with similarity >= 0 to the target. nearest: the most similar source."""
    consistency_weight: float = Field(1.0, ge=0)
    """lambda in the rules best-prefix and best-subset."""
    positive_only: bool = True
    """Merge only sources with similarity >= 0 to the target."""
    metric: Literal["token_mean_dot", "cosine", "token_mean_cosine"] = "token_mean_dot"
    """Similarity of the scaled task vectors."""
    scaling: Literal["per-token", "scalar", "none"] = "per-token"
    """Trained factors alpha of the merged vectors: one per token, one per vector, or none."""
    scale_start: Literal["one", "mean"] = "one"
    """First alpha. one: the vectors are summed, as published. mean: 1 / size of the first group."""
    target_scale_learning_rate: float | None = Field(None, ge=0)
    """Learning rate of alpha_t. Default: learning_rate."""
    source_scale_learning_rate: float | None = Field(None, ge=0)
    """Learning rate of alpha_s. Default: learning_rate."""

    @model_validator(mode="after")
    def _own_batches(self) -> DTVGConfig:
        if self.own_batch_size is not None and self.own_updates is None and self.own_epochs is None:
            raise ValueError("own_batch_size applies to own_updates or own_epochs, and neither is set; set one of them")
        return self


def _with_related(ctx: Context, target: EncodedTask) -> MethodResult:
    """Prompt tuning, joined by the vectors of related sources at the method's rates."""
    first = related.first_updates(ctx, target)
    if not first.related:
        return related.without_transfer(ctx, target, first)
    dtvg = ctx.config.of(DTVGConfig)
    result, weight = related.joined(
        ctx,
        target,
        first,
        torch.stack(source_prompts(ctx))[first.related],
        "DTVG with related sources",
        scaling=dtvg.scaling,
        scale_rate=dtvg.source_scale_learning_rate,
    )
    merged = [first.test["names"][place] for place in first.related] if weight else []
    updates = [update for update, _ in result.history["loss"] if update > first.stage.facts["updates"]]
    result.history["groups"] = [(update, merged) for update in updates]
    return result


class DTVG(Method):
    """Dynamic task vector grouping."""

    name = "DTVG"
    settings = (DTVGConfig, related.RelatedConfig)

    def check(self, config: RunConfig) -> None:
        dtvg = config.of(DTVGConfig)
        looked_at = {"variant", "ablation", "scaling", "source_scale_learning_rate"}
        related.check_unused(config, dtvg, [name for name in DTVGConfig.model_fields if name not in looked_at])
        if config.transfer_from == "related":
            if dtvg.scaling == "none":
                raise ValueError(
                    "dtvg.scaling='none' leaves nothing to train if transfer_from is 'related'; use per-token or "
                    "scalar, or set transfer_from to 'all'"
                )
            return
        if dtvg.own_updates is None and dtvg.own_epochs is None:
            check_fraction(config, self.name, "dtvg.own_fraction", dtvg.own_fraction)
        if dtvg.rule.endswith("subset") and len(config.sources) > MAX_SOURCES:
            raise ValueError(
                f"dtvg.rule={dtvg.rule!r} searches all subsets of at most {MAX_SOURCES} sources, got "
                f"{len(config.sources)}; use a prefix rule"
            )

    def own_budget(self, config: RunConfig, rows: int) -> tuple[int, int]:
        dtvg = config.of(DTVGConfig)
        batch = dtvg.own_batch_size or config.batch_size
        return updates_of_epochs(dtvg.own_epochs, rows, batch) or dtvg.own_updates or 0, batch

    def target_stages(self, scope: Scope, target: SizedTask) -> Iterator[Stage]:
        config, known = scope.config.for_task(target.name), len(scope.sources)
        dtvg, budget = config.of(DTVGConfig), scope.budget(target)
        if config.transfer_from == "related":
            yield from related.stages(scope, target, self.name, known * _scale_numbers(scope))
            return
        first, second = scope.parts(target, dtvg.own_fraction)
        size = config.batch_size
        if budget is not None and budget.own:
            first, second, size = budget.own, budget.transfer, budget.own_rows
        scales = 0 if dtvg.grouping == "spot" else (known + 1) * _scale_numbers(scope)
        rate = dtvg.own_learning_rate
        yield scope.tuning(target, "own prompt", scope.prompt, updates=first, batch=size, rate=rate)
        yield scope.tuning(target, self.name, scope.prompt + scales, updates=second, batch=config.batch_size)

    def run(self, ctx: Context, target: EncodedTask) -> MethodResult:
        config, dtvg = ctx.config, ctx.config.of(DTVGConfig)
        if config.transfer_from == "related":
            return _with_related(ctx, target)
        sources = torch.stack(source_prompts(ctx))
        updates = target_budget(config, len(target.train)).own or own_share(ctx, target, dtvg.own_fraction)
        own, first, batches = own_prompt(ctx, target, updates, dtvg.own_learning_rate)
        if dtvg.grouping == "spot":
            return from_nearest(ctx, target, (own, first, batches), "DTVG spot")
        rule = {"consistency_weight": dtvg.consistency_weight, "positive_only": dtvg.positive_only}
        settings = {name: getattr(dtvg, name) for name in ("grouping", "metric", "scaling", "scale_start")}
        prompt = GroupedPrompt(ctx.start, sources, own, rule=group_rule(dtvg.rule, **rule), **settings)
        groups = prompt.parameter_groups(
            config.target_rate, dtvg.target_scale_learning_rate, dtvg.source_scale_learning_rate
        )
        decay = {} if dtvg.weight_decay is None else {"weight_decay": dtvg.weight_decay}
        key = {"rule": dtvg.rule} | rule | settings
        if dtvg.rule == "consistent-subset":
            key["no agreeing pair"] = "no source"  # version 0.1 merged some in that case
        second = ctx.tune(self.name, prompt, target, batches, settings=key, groups=groups, **decay)
        names = [source.name for source in ctx.sources]
        offset = first.facts["updates"]
        log = [
            (offset + update, [name for name, chosen in zip(names, row[:-1], strict=True) if chosen])
            for update, row in enumerate(prompt.history()["groups"], 1)
        ]
        final = [name for name, chosen in zip(names, prompt.group()[:-1].tolist(), strict=True) if chosen]
        notes = f"merged: {', '.join(final) or 'no source'}"
        return after_own(ctx, target, sources, own, prompt.composed(), (first, second), notes, {"groups": log})


def _scale_numbers(scope: Scope) -> int:
    """Number of scales per vector."""
    return {"per-token": scope.length, "scalar": 1, "none": 0}[scope.config.of(DTVGConfig).scaling]
