"""Cost of a training step, training and scoring speed, and peak memory, against PEFT + transformers.Trainer.

python bench/training.py [--small] [--model llama] [--parts steps,training,scoring,memory] [--rounds 5] [--json FILE]

The model has random weights. --model llama is a Llama of the size of SmolLM2-135M, llama-1b one of the size of
Llama-3.2-1B, and t5 a T5 of the size of T5-small (--small: toys).
All contestants are measured in turn, round by round, and a number is the median of its rounds. Peak memory is that of
torch's allocator, which is deterministic, so it is measured once.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import peft
import torch
import transformers
from torch import Tensor
from training_setup import (
    ANSWERS,
    FULL,
    ONCE,
    PACKED,
    PLAIN,
    REPLAYED,
    SKIP,
    SMALL,
    PeftTrainer,
    Sizes,
    as_inputs,
    as_loaded,
    attentions,
    configured,
    make_backbone,
    make_model,
    make_peft,
    make_rows,
    ours,
    start_prompt,
    train_seconds,
    update,
    with_all_logits,
)

from promptkernels.bench.memory import peak_bytes
from prompttransfer.methods.distillation import DistillationLoss, TeacherForward
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss, PriorLoss, gaussian_penalty
from prompttransfer.methods.sampler import row_batches
from prompttransfer.models import Backbone, Batch, Output
from prompttransfer.models.answering import Reader
from prompttransfer.prompts import FrozenPrompts, GroupedPrompt, MultitaskPrompt, ParticlePrompts, SoftPrompt

TASKS, PARTICLES, SOURCES = 4, 4, 6
NARROWED = "ours: and weights kept in bfloat16"
EVERY = "ours: prompt in every row"
GRAPHED = "ours: prompt in every row, passes replayed as CUDA graphs"


def timed(run: Callable[[], object]) -> float:
    """Seconds of a call, the device's work included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(cases: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every case in every round. The order is reversed from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(rounds):
        for name in list(cases)[:: 1 if index % 2 == 0 else -1]:
            gc.collect()
            seconds[name].append(cases[name]())
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round, in which slow rounds cancel out."""
    return median(a / b for a, b in zip(above, below, strict=True))


def method_updates(backbone: Backbone, sizes: Sizes, start: Tensor) -> dict[str, Callable[[], None]]:
    """An update of every method, with its whole loss. The outputs of MPT's teachers are computed beforehand."""
    one, mixed = make_rows(sizes, sizes.batch), make_rows(sizes, sizes.batch, TASKS)
    noise = torch.randn(SOURCES, *start.shape, generator=torch.Generator().manual_seed(2)) * start.std()
    particles = start + noise[:PARTICLES]
    cloud = ParticlePrompts(particles, start)
    sources = ParticleLoss([1 / TASKS] * TASKS, 100.0)
    prior = PriorLoss(gaussian_penalty(particles.to(backbone.device), 1e-3), 0.01)
    outputs: list[Callable[[Output], Output]] = []
    forward = TeacherForward(FrozenPrompts(start + noise[:TASKS]).to(backbone.device))

    def teacher(backbone: Backbone, batch: Batch) -> Callable[[Output], Output]:
        if not outputs:  # in the first call, which is not timed
            outputs.append(forward(backbone, batch))
        return outputs[0]

    return {
        "PT": update(backbone, SoftPrompt(start), task_loss, one),
        "MPT, target": update(backbone, MultitaskPrompt(start), task_loss, one),
        "DTVG": update(backbone, GroupedPrompt(start, start + noise, start), task_loss, one),
        "BMTPT, target": update(backbone, MultitaskPrompt(start), prior, one),
        "PT, a prompt per task": update(backbone, ParticlePrompts(start + noise[:TASKS], start), task_loss, mixed),
        "MPT, sources": update(backbone, MultitaskPrompt(start, TASKS), DistillationLoss(teacher), mixed),
        f"BMTPT, sources, {PARTICLES} particles": update(
            backbone, cloud, sources, mixed, lambda: cloud.turn_gradient(100.0)
        ),
    }


def steps(backbone: Backbone, sizes: Sizes, start: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Cost of a method's update relative to prompt tuning on the same tokens."""
    updates = method_updates(backbone, sizes, start)
    for run in updates.values():
        run()
    seconds = in_turns({name: partial(timed, run) for name, run in updates.items()}, rounds)
    against = {"MPT, sources": ("PT, a prompt per task", 1), list(updates)[-1]: ("PT", PARTICLES)}
    rows = []
    for name, durations in seconds.items():
        base, times = against.get(name, ("PT", 1))
        scaled = [times * value for value in seconds[base]]
        compared = base if times == 1 else f"{times} x {base}"
        rows.append(
            {"update": name, "seconds": median(durations), "against": compared, "ratio": ratio(durations, scaled)}
        )
    return rows


def training(
    backbone: Backbone,
    loaded: Backbone,
    everything: Backbone,
    sizes: Sizes,
    start: Tensor,
    rounds: int,
    updates: int,
    graphs: bool = False,
) -> list[dict[str, Any]]:
    """Tokens per second: PEFT + Trainer, then the differences of this trainer, added one by one.

    Args:
        graphs: compare passes that CUDA graphs replay, and the same passes without, in place of the differences.
    """
    rows = make_rows(sizes, sizes.batch * updates)
    lengths = [len(row.ids) for row in rows]
    shuffled = row_batches(len(rows), sizes.batch, updates, 0)
    sorted_ = row_batches(len(rows), sizes.batch, updates, 0, lengths=lengths)
    shuffled, sorted_ = shuffled[:1] * SKIP + shuffled, sorted_[:1] * SKIP + sorted_
    precision, (usual, own) = backbone.precision, attentions(backbone)
    wrapped = make_peft(backbone.model, start)

    def peft_case(batches: list[list[int]], attention: str) -> Callable[[], float]:
        run = partial(train_seconds, lambda folder: PeftTrainer(wrapped, rows, batches, precision, folder))
        return partial(configured, attention, backbone, PLAIN, run)

    def our_case(which: Backbone, batches: list[list[int]], layout: str) -> Callable[[], float]:
        run = partial(train_seconds, lambda folder: ours(which, start, rows, batches, folder))
        return partial(configured, own, which, layout, run)

    cases = {
        "PEFT + Trainer": peft_case(shuffled, usual),
        f"PEFT + Trainer, {own} attention, batches of like length": peft_case(sorted_, own),
    }
    if backbone.seq2seq:  # its decoder only computes logits of the answer, and its encoder is bidirectional
        cases |= {
            "ours: shuffled batches": our_case(backbone, shuffled, PLAIN),
            "ours: batches of like length": our_case(backbone, sorted_, PLAIN),
        }
    else:
        cases |= {
            "ours: all logits, shuffled batches, prompt in every row": our_case(everything, shuffled, PLAIN),
            "ours: logits of the answer only": our_case(backbone, shuffled, PLAIN),
            "ours: and batches of like length": our_case(backbone, sorted_, PLAIN),
            "ours: and the prompt read once": our_case(backbone, sorted_, ONCE),
            "ours: and rows packed": our_case(backbone, sorted_, PACKED),
        }
    if loaded is not backbone:
        cases[NARROWED] = our_case(loaded, sorted_, PLAIN if loaded.seq2seq else PACKED)
    if graphs:
        plain, replayed = our_case(loaded, sorted_, PLAIN), our_case(loaded, sorted_, REPLAYED)
        recorded(replayed)
        cases = {"PEFT + Trainer": cases["PEFT + Trainer"], EVERY: plain, GRAPHED: replayed}
    seconds = in_turns(cases, rounds)
    tokens = sum(lengths) + sizes.length * len(rows)  # nominal tokens of the method, whatever is actually computed
    first = seconds["PEFT + Trainer"]
    return [
        {"training": name, "tokens_per_second": tokens / median(durations), "speedup": ratio(first, durations)}
        for name, durations in seconds.items()
    ]


def recorded(case: Callable[[], object]) -> None:
    """Run a case until its graphs exist: a shape is recorded when it occurs for the second time."""
    case()
    case()


def attention(backbone: Backbone, sizes: Sizes, start: Tensor, rounds: int, updates: int) -> list[dict[str, Any]]:
    """Updates per second of packed rows with a dense mask, and with FlexAttention, which has no backward on a CPU."""
    rows = make_rows(sizes, sizes.batch * updates)
    batches = row_batches(len(rows), sizes.batch, updates, 0, lengths=[len(row.ids) for row in rows])
    batches = batches[:1] * SKIP + batches
    run = partial(train_seconds, lambda folder: ours(backbone, start, rows, batches, folder))
    kinds = (attentions(backbone)[1], *(("flex_attention",) if backbone.device.type == "cuda" else ()))
    seconds = in_turns({kind: partial(configured, kind, backbone, PACKED, run) for kind in kinds}, rounds)
    return [
        {
            "packed rows": kind,
            "updates_per_second": updates / median(durations),
            "speedup": ratio(seconds[kinds[0]], durations),
        }
        for kind, durations in seconds.items()
    ]


def scoring(
    backbone: Backbone,
    loaded: Backbone,
    sizes: Sizes,
    start: Tensor,
    rounds: int,
    count: int,
    graphs: bool = False,
) -> list[dict[str, Any]]:
    """Rows per second of scoring a finished prompt. graphs: as in `training`."""
    rows = sorted((row.ids for row in make_rows(sizes, count)), key=len)
    (usual, own), size = attentions(backbone), 2 * sizes.batch
    wrapped = make_peft(backbone.model, start).eval()

    @torch.no_grad()
    def peft_predict() -> list[int]:
        predicted = []
        for first in range(0, count, size):
            batch = as_inputs(rows[first : first + size], backbone.seq2seq)
            if backbone.seq2seq:
                batch["decoder_input_ids"] = torch.zeros(len(batch["input_ids"]), 1, dtype=torch.int64)
            batch = {name: tensor.to(backbone.device) for name, tensor in batch.items()}
            with torch.autocast(backbone.device.type, torch.bfloat16, enabled=backbone.precision == "bfloat16"):
                logits = wrapped(**batch).logits[:, -1]
            predicted += logits[:, list(ANSWERS)].argmax(dim=1).tolist()
        return predicted

    def our_predict(which: Backbone) -> list[int]:
        scores = Reader(which, start, size).first_token_scores(rows, ANSWERS)
        return scores.argmax(dim=1).tolist()

    ours_here, ours_loaded = partial(our_predict, backbone), partial(our_predict, loaded)
    plans: dict[str, tuple[str, Backbone, str, Callable[[], list[int]]]] = {
        "PEFT": (usual, backbone, PLAIN, peft_predict),
        EVERY: (own, backbone, PLAIN, ours_here),
    }
    if not backbone.seq2seq:
        plans["ours: prompt read once"] = (own, backbone, ONCE, ours_here)
    if loaded is not backbone:
        plans[NARROWED] = (own, loaded, PLAIN if loaded.seq2seq else ONCE, ours_loaded)
    if graphs:
        plans = {
            "PEFT": plans["PEFT"],
            EVERY: (own, loaded, PLAIN, ours_loaded),
            GRAPHED: (own, loaded, REPLAYED, ours_loaded),
        }
    answers: dict[str, list[int]] = {}

    def case(name: str) -> float:
        attention, which, layout, run = plans[name]
        return configured(attention, which, layout, lambda: timed(lambda: answers.update({name: run()})))

    if graphs:
        recorded(partial(case, GRAPHED))
    seconds = in_turns({name: partial(case, name) for name in plans}, rounds)
    every = answers[EVERY]
    return [
        {
            "scoring": name,
            "rows_per_second": count / median(durations),
            "speedup": ratio(seconds["PEFT"], durations),
            "same_answers": sum(a == b for a, b in zip(answers[name], every, strict=True)) / len(every),
        }
        for name, durations in seconds.items()
    ]


def memory(backbone: Backbone, sizes: Sizes, start: Tensor) -> list[dict[str, Any]]:
    """Peak memory of three updates in torch's allocator, in addition to the model; includes the Trainer's own."""
    updates = 3
    rows = make_rows(sizes, updates * sizes.batch)
    batches = row_batches(len(rows), sizes.batch, updates, 0)
    theirs, own = attentions(backbone)
    wrapped = make_peft(backbone.model, start)

    def trained() -> float:
        return train_seconds(lambda folder: ours(backbone, start, rows, batches, folder))

    def peft_trained() -> float:
        return train_seconds(lambda folder: PeftTrainer(wrapped, rows, batches, backbone.precision, folder))

    def repeated(run_once: Callable[[], None]) -> None:
        for _ in batches:
            run_once()

    runs: dict[str, Callable[[], object]] = {
        "PEFT + Trainer": partial(configured, theirs, backbone, PLAIN, peft_trained),
        EVERY: partial(configured, own, backbone, PLAIN, trained),
    }
    if not backbone.seq2seq:
        runs["ours: prompt read once"] = partial(configured, own, backbone, ONCE, trained)
        runs["ours: rows packed"] = partial(configured, own, backbone, PACKED, trained)
    for name, run_once in method_updates(backbone, sizes, start).items():
        run = partial(repeated, run_once)
        runs[f"update of {name}"] = partial(configured, own, backbone, PLAIN if backbone.seq2seq else PACKED, run)
    peaks = {name: peak_bytes(run, backbone.device) / 2**20 for name, run in runs.items()}
    return [
        {"memory": name, "mib": round(mib), "of_peft": mib / peaks["PEFT + Trainer"]} for name, mib in peaks.items()
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """A markdown table."""
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    head = [name.replace("_", " ") for name in rows[0]]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a toy model, to try the benchmark itself")
    parser.add_argument("--model", default="llama", choices=list(FULL))
    parser.add_argument("--length", type=int, help="tokens of the prompt")
    parser.add_argument("--text", type=int, help="usual number of tokens in a row")
    parser.add_argument("--parts", default="steps,training,scoring,memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="timed updates of a training run")
    parser.add_argument("--rows", type=int, default=128, help="rows to score")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args()
    sizes = (SMALL if args.small else FULL)[args.model]
    sizes = replace(sizes, length=args.length or sizes.length, text=args.text or sizes.text)
    model = make_model(args.model, sizes, args.device)
    backbone = make_backbone(model, args.precision)
    start = start_prompt(backbone, sizes)
    everything = with_all_logits(backbone)
    loaded = as_loaded(backbone)
    model.set_attn_implementation(attentions(backbone)[1])
    parts = {
        "steps": lambda: steps(loaded, sizes, start, 3 * args.rounds),
        "training": lambda: training(backbone, loaded, everything, sizes, start, args.rounds, args.updates),
        "attention": lambda: attention(backbone, sizes, start, args.rounds, args.updates),
        "scoring": lambda: scoring(backbone, loaded, sizes, start, args.rounds, args.rows),
        "memory": lambda: memory(backbone, sizes, start),
        "training-graphs": lambda: training(
            backbone, loaded, everything, sizes, start, args.rounds, args.updates, graphs=True
        ),
        "scoring-graphs": lambda: scoring(backbone, loaded, sizes, start, args.rounds, args.rows, graphs=True),
    }
    report: dict[str, Any] = {
        "model": args.model,
        "sizes": asdict(sizes),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or "cpu",
        "precision": backbone.precision,
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
    }
    for name in args.parts.split(","):
        report[name] = parts[name]()
        print(table(report[name]), end="\n\n", flush=True)
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.markdown:
        args.markdown.write_text("\n\n".join(table(report[name]) for name in args.parts.split(",")) + "\n")


if __name__ == "__main__":
    main()
