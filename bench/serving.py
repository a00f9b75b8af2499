"""Compare a prompt in vLLM with `predict` on the same rows: labels, log-odds, rows per second.

OMP_NUM_THREADS=2 python -m bench.serving PROMPT TASK [--rows 200] [--precision float32] [--url URL] [--json FILE]

The prompt must have choices. Loading is not measured. log_odds_apart: the largest difference, over all rows, of the
log-odds of any choice against the first one. surest_other: the largest probability that `predict` gave to its label on
a row where vLLM gave a different label.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from math import log
from pathlib import Path

from promptkernels.bench.machine import facts
from prompttransfer import Predictor, load_task
from prompttransfer.serving.predict import Prediction
from prompttransfer.serving.requests import ServedPrompt, answer
from prompttransfer.serving.vllm import VllmEngine, VllmServer


def timed(read: Callable[[Sequence[str]], list[Prediction]], texts: Sequence[str]) -> tuple[list[Prediction], float]:
    """Answers and rows per second, after a warm-up call with a few rows."""
    read(texts[:8])
    start = time.perf_counter()
    answers = read(texts)
    return answers, len(texts) / (time.perf_counter() - start)


def apart(one: Prediction, other: Prediction) -> float:
    """Largest difference of log-odds."""
    odds = [
        [log(share) - log(next(iter(each.scores.values()))) for share in each.scores.values()] for each in (one, other)
    ]
    return max(abs(a - b) for a, b in zip(*odds, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", type=Path)
    parser.add_argument("task")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--precision", default=None)
    parser.add_argument("--url", default=None)
    parser.add_argument("--json", type=Path, default=None)
    args = parser.parse_args()

    texts = load_task(args.task, test_rows=args.rows).test["raw"]
    predictor = Predictor.open(args.prompt, precision=args.precision)
    ours, pace = timed(predictor, texts)
    served = ServedPrompt.open(args.prompt, precision=args.precision)
    engine = VllmServer(args.url) if args.url else VllmEngine.start(served)
    theirs, served_pace = timed(lambda rows: answer(engine, [(served, rows)])[0], texts)
    pairs = list(zip(ours, theirs, strict=True))
    result = {
        "rows": len(texts),
        "precision": predictor.backbone.precision,
        "same_labels": sum(one.label == other.label for one, other in pairs),
        "surest_other": max((one.scores[one.label] for one, other in pairs if one.label != other.label), default=None),
        "log_odds_apart": round(max(apart(*pair) for pair in pairs), 4),
        "predict_rows_per_second": round(pace, 1),
        "engine_rows_per_second": round(served_pace, 1),
        "machine": facts(predictor.backbone.device),
    }
    print(json.dumps(result, indent=1))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
