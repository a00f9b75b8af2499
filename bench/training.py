"""Cost of a training step, training and scoring speed, and peak memory, against PEFT + transformers.Trainer.

python bench/training.py [--small] [--parts steps,training,scoring,memory] [--rounds 5] [--json FILE] [--markdown FILE]

The model is a random Llama of the size of SmolLM2-135M (--small: a toy of the same shape). Everything that is compared
is measured in turns, round by round; a number is the median of its rounds. Peak memory is that of a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
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
    SKIP,
    SMALL,
    AllLogits,
    PeftTrainer,
    Sizes,
    configured,
    left_padded,
    make_backbone,
    make_model,
    make_peft,
    make_rows,
    ours,
    own_attention,
    start_prompt,
    train_seconds,
    update,
)

from prompttransfer.answering import Reader
from prompttransfer.methods.objectives import task_loss
from prompttransfer.methods.posterior import ParticleLoss, PriorLoss, gaussian_penalty
from prompttransfer.methods.sampler import row_batches
from prompttransfer.models import Backbone
from prompttransfer.prompts import GroupedPrompt, MultitaskPrompt, ParticlePrompts, SoftPrompt

TASKS, PARTICLES, SOURCES = 4, 4, 6


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
    """Seconds of every case in every round; the order turns around from round to round."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for index in range(rounds):
        for name in list(cases)[:: 1 if index % 2 == 0 else -1]:
            gc.collect()
            seconds[name].append(cases[name]())
    return seconds


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of the quotient within a round: what slows a whole round down cancels."""
    return median(a / b for a, b in zip(above, below, strict=True))


def steps(backbone: Backbone, sizes: Sizes, start: Tensor, rounds: int) -> list[dict[str, Any]]:
    """Cost of a method's update over that of prompt tuning on the same tokens."""
    one, mixed = make_rows(sizes, sizes.batch), make_rows(sizes, sizes.batch, TASKS)
    noise = torch.randn(SOURCES, *start.shape, generator=torch.Generator().manual_seed(2)) * start.std()
    particles = start + noise[:PARTICLES]
    cloud = ParticlePrompts(particles, start)
    sources = ParticleLoss([1 / TASKS] * TASKS, 100.0)
    prior = PriorLoss(gaussian_penalty(particles.to(backbone.device), 1e-3), 0.01)
    updates = {
        "PT": update(backbone, SoftPrompt(start), task_loss, one),
        "MPT, target": update(backbone, MultitaskPrompt(start), task_loss, one),
        "DTVG": update(backbone, GroupedPrompt(start, start + noise, start), task_loss, one),
        "BMTPT, target": update(backbone, SoftPrompt(start), prior, one),
        "PT, a prompt per task": update(backbone, ParticlePrompts(start + noise[:TASKS], start), task_loss, mixed),
        "MPT, sources without teachers": update(backbone, MultitaskPrompt(start, TASKS), task_loss, mixed),
        f"BMTPT, sources, {PARTICLES} particles": update(
            backbone, cloud, sources, mixed, lambda: cloud.turn_gradient(100.0)
        ),
    }
    for run in updates.values():
        run()
    seconds = in_turns({name: partial(timed, run) for name, run in updates.items()}, rounds)
    against = {"MPT, sources without teachers": ("PT, a prompt per task", 1), list(updates)[-1]: ("PT", PARTICLES)}
    rows = []
    for name, taken in seconds.items():
        base, times = against.get(name, ("PT", 1))
        scaled = [times * value for value in seconds[base]]
        compared = base if times == 1 else f"{times} x {base}"
        rows.append({"update": name, "seconds": median(taken), "against": compared, "ratio": ratio(taken, scaled)})
    return rows


def training(
    backbone: Backbone, everything: Backbone, sizes: Sizes, start: Tensor, rounds: int, updates: int
) -> list[dict[str, Any]]:
    """Tokens per second: PEFT + Trainer, and what each difference of this trainer brings, one on top of the other."""
    rows = make_rows(sizes, sizes.batch * updates)
    lengths = [len(row.ids) for row in rows]
    shuffled = row_batches(len(rows), sizes.batch, updates, 0)
    sorted_ = row_batches(len(rows), sizes.batch, updates, 0, lengths=lengths)
    shuffled, sorted_ = shuffled[:1] * SKIP + shuffled, sorted_[:1] * SKIP + sorted_
    precision, own = backbone.precision, own_attention(backbone.device.type)
    wrapped = make_peft(backbone.model, start)

    def peft_case(batches: list[list[int]], attention: str) -> Callable[[], float]:
        run = partial(train_seconds, lambda folder: PeftTrainer(wrapped, rows, batches, precision, folder))
        return partial(configured, attention, backbone, True, run)

    def our_case(which: Backbone, batches: list[list[int]], shares: bool) -> Callable[[], float]:
        run = partial(train_seconds, lambda folder: ours(which, start, rows, batches, folder))
        return partial(configured, own, which, shares, run)

    cases = {
        "PEFT + Trainer": peft_case(shuffled, "sdpa"),
        f"PEFT + Trainer, {own} attention, batches of like length": peft_case(sorted_, own),
        "ours: all logits, shuffled batches, prompt in every row": our_case(everything, shuffled, False),
        "ours: logits of the answer only": our_case(backbone, shuffled, False),
        "ours: and batches of like length": our_case(backbone, sorted_, False),
        "ours: and the prompt read once": our_case(backbone, sorted_, True),
    }
    seconds = in_turns(cases, rounds)
    tokens = sum(lengths) + sizes.length * len(rows)  # what the method asks for, whatever is really computed
    first = seconds["PEFT + Trainer"]
    return [
        {"training": name, "tokens_per_second": tokens / median(taken), "speedup": ratio(first, taken)}
        for name, taken in seconds.items()
    ]


def scoring(backbone: Backbone, sizes: Sizes, start: Tensor, rounds: int, count: int) -> list[dict[str, Any]]:
    """Rows per second of scoring a finished prompt."""
    rows = sorted((row.ids for row in make_rows(sizes, count)), key=len)
    own, size = own_attention(backbone.device.type), 2 * sizes.batch
    wrapped = make_peft(backbone.model, start).eval()

    @torch.no_grad()
    def peft_predict() -> list[int]:
        found = []
        for first in range(0, count, size):
            batch = {name: t.to(backbone.device) for name, t in left_padded(rows[first : first + size]).items()}
            with backbone.autocast():
                logits = wrapped(**batch).logits[:, -1]
            found += logits[:, list(ANSWERS)].argmax(dim=1).tolist()
        return found

    def our_predict() -> list[int]:
        scores = Reader(backbone, start, size).first_token_scores(rows, ANSWERS)
        return scores.argmax(dim=1).tolist()

    plans = {
        "PEFT": ("sdpa", False, peft_predict),
        "ours: prompt in every row": (own, False, our_predict),
        "ours: prompt read once": (own, True, our_predict),
    }
    answers: dict[str, list[int]] = {}

    def case(name: str) -> float:
        attention, shares, run = plans[name]
        return configured(attention, backbone, shares, lambda: timed(lambda: answers.update({name: run()})))

    seconds = in_turns({name: partial(case, name) for name in plans}, rounds)
    once, every = answers["ours: prompt read once"], answers["ours: prompt in every row"]
    return [
        {
            "scoring": name,
            "rows_per_second": count / median(taken),
            "speedup": ratio(seconds["PEFT"], taken),
            "same_answers": sum(a == b for a, b in zip(answers[name], every, strict=True)) / len(once),
        }
        for name, taken in seconds.items()
    ]


def memory(arguments: list[str]) -> list[dict[str, Any]]:
    """Peak MiB of a process that makes three updates, and what it is above one that only has the model."""
    peaks = {}
    for name in ("model", "peft", "plain", "once"):
        command = [sys.executable, __file__, *arguments, "--peak", name]
        peaks[name] = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
        )
    labels = {"peft": "PEFT + Trainer", "plain": "ours: prompt in every row", "once": "ours: prompt read once"}
    return [
        {"memory": label, "peak_mib": peaks[name], "above_model_mib": peaks[name] - peaks["model"]}
        for name, label in labels.items()
    ]


def peak(name: str, sizes: Sizes, device: str, precision: str) -> float:
    """Peak MiB of this process (of the device, on a GPU) after three updates on the same batches."""
    backbone = make_backbone(make_model(sizes, device), precision)
    start = start_prompt(backbone, sizes)
    rows = make_rows(sizes, 3 * sizes.batch)
    batches = row_batches(len(rows), sizes.batch, 3, 0)
    if name == "peft":
        wrapped = make_peft(backbone.model, start)
        train_seconds(lambda folder: PeftTrainer(wrapped, rows, batches, backbone.precision, folder))
    elif name != "model":
        run = partial(train_seconds, lambda folder: ours(backbone, start, rows, batches, folder))
        configured(own_attention(device), backbone, name == "once", run)
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def table(rows: list[dict[str, Any]]) -> str:
    """A markdown table."""
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    head = [name.replace("_", " ") for name in rows[0]]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="a toy model, to try the benchmark itself")
    parser.add_argument("--parts", default="steps,training,scoring,memory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=8, help="timed updates of a training run")
    parser.add_argument("--rows", type=int, default=128, help="rows to score")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="auto", choices=["auto", "float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--peak", choices=["model", "peft", "plain", "once"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = SMALL if args.small else FULL
    if args.peak:
        print(peak(args.peak, sizes, args.device, args.precision))
        return
    model = make_model(sizes, args.device)
    backbone = make_backbone(model, args.precision)
    start = start_prompt(backbone, sizes)
    shared = ["--device", args.device, "--precision", args.precision] + ["--small"] * args.small
    everything = make_backbone(model, args.precision, AllLogits)
    model.set_attn_implementation(own_attention(args.device))
    parts = {
        "steps": lambda: steps(backbone, sizes, start, 3 * args.rounds),
        "training": lambda: training(backbone, everything, sizes, start, args.rounds, args.updates),
        "scoring": lambda: scoring(backbone, sizes, start, args.rounds, args.rows),
        "memory": lambda: memory(shared),
    }
    report: dict[str, Any] = {
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
