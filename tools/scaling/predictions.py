"""A thousand tasks on a model of 70 billion parameters, and a library of a million prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prompttransfer import RunConfig
from prompttransfer.estimate.cost import memory, operations
from prompttransfer.estimate.model import ModelFacts
from prompttransfer.estimate.stages import SizedStage

GB, DAY = 1e9, 86400.0


@dataclass(frozen=True)
class Cluster:
    """Peak numbers of an H200, and the fractions reached: `utilisation` of products, `streaming` of memory."""

    gpus: int = 64
    operations_per_second: float = 989e12
    bytes_per_second: float = 4.8e12
    memory: float = 141e9
    utilisation: float = 0.4
    streaming: float = 0.7

    def seconds(self, work: float) -> float:
        """Seconds for this many operations, on one GPU."""
        return work / (self.utilisation * self.operations_per_second)


@dataclass(frozen=True)
class Work:
    """tasks: sources, and as many targets; updates: per task and method; joint: updates of a stage on all sources."""

    tasks: int = 1000
    length: int = 100
    text: int = 128
    rows: int = 32
    updates: int = 2000
    joint: int = 100_000
    particles: int = 5
    test_rows: int = 1000


def llama_70b() -> ModelFacts:
    """Llama 3 70B: grouped attention with 8 heads of keys and values."""
    hidden, inner, layers, vocabulary = 8192, 28672, 80, 128256
    read = layers * (2 * hidden**2 + 2 * hidden * 1024 + 3 * hidden * inner)
    embedding = vocabulary * hidden
    return ModelFacts(
        name="70B",
        family="llama",
        seq2seq=False,
        hidden=hidden,
        layers=layers,
        heads=64,
        inner=inner,
        parameters=read + 2 * embedding,
        embedding=embedding,
        read=read,
        written=0,
    )


def run_of_tasks(cluster: Cluster, work: Work) -> dict[str, float]:
    """Days on the whole cluster by stage, and sizes."""
    model = llama_70b()
    full, text = work.length * model.hidden, work.rows * (work.text + 1)

    def stage(tokens: float, trained: int) -> SizedStage:
        return SizedStage("", None, None, work.rows, trained, trained_on=tokens, longest=work.length + work.text)

    def days(tokens: float, updates: float) -> float:
        return updates * cluster.seconds(operations(stage(tokens, full), model)) / cluster.gpus / DAY

    own = work.length + text
    update = cluster.seconds(operations(stage(own, full), model))
    scored = SizedStage("", None, 0, work.rows, 0, read_only=float(work.test_rows * work.text))
    kept = memory(RunConfig(checkpointing=True), model, [stage(own, full)], short=True)
    plain = memory(RunConfig(), model, [stage(own, full)], short=True)
    factors = work.tasks * (work.length + model.hidden)
    vectors = 4.0 * (work.tasks + 1) * full
    return {
        "update_seconds": update,
        "days_sources": days(own, work.tasks * work.updates),
        "days_targets": days(own, work.tasks * work.updates),
        "days_mpt_joint": days(min(work.tasks, work.rows) * work.length + text, work.joint),
        "days_mpt_teachers": days(own, work.joint) / 2,
        "days_bmtpt_joint": days(work.particles * own, work.joint),
        "days_scoring": work.tasks * cluster.seconds(operations(scored, model)) / cluster.gpus / DAY,
        "weights_gb": 2 * model.parameters / GB,
        "activations_gb": plain.activations / GB,
        "activations_checkpointed_gb": kept.activations / GB,
        "prompt_mb": 4 * full / 1e6,
        "mpt_factors_mb": 4 * factors / 1e6,
        "mpt_training_mb": 16 * (full + factors) / 1e6,
        "dtvg_vectors_gb": vectors / GB,
        # Similarity and merge read the vectors forward; the gradient of the factors reads them again.
        "dtvg_share_percent": 100 * 3 * vectors / (cluster.streaming * cluster.bytes_per_second) / update,
        "gram_mb": 4 * work.tasks**2 / 1e6,
        "gram_seconds": cluster.seconds(2.0 * work.tasks**2 * full),
        "bmtpt_state_mb": 16 * work.particles * full / 1e6,
        "store_gb": 2 * work.tasks * 4 * full / GB,
        "prompts_gb": work.tasks * 4 * full / GB,
    }


def library_of(prompts: int, hidden: int, length: int, measured: dict[str, Any]) -> dict[str, float]:
    """Times and sizes, at the speed measured by `bench.library`."""
    size = 4.0 * prompts * length * hidden
    each = {name: measured[f"seconds_to_{name}"] / measured["prompts"] for name in ("index", "open")}
    return {
        "prompts": prompts,
        "hidden": hidden,
        "gb": size / GB,
        "index_minutes": prompts * each["index"] / 60,
        "open_seconds": prompts * each["open"],
        "warm_minutes": size / (measured["warm"]["similar_gb_per_second"] * GB) / 60,
        "cold_minutes": size / (measured["cold"]["similar_gb_per_second"] * GB) / 60,
    }
