"""A run folder as `compare` writes it, with made-up numbers."""

import json
from pathlib import Path
from typing import Any

TARGETS, METHODS, SOURCES = ("sst2", "n<y>t"), ("PT", "DTVG", "BMTPT"), ("amazon", "r8")


def write_run(folder: Path, seeds: tuple[int, ...] = (1, 2), finished: bool = True) -> Path:
    """Scores: 60 + 10 * target + method + seed; PT collapses on the first target."""
    rows: list[dict[str, Any]] = []
    (folder / "history").mkdir(parents=True)
    for t, target in enumerate(TARGETS):
        for m, method in enumerate(METHODS):
            for seed in seeds:
                rows.append(
                    {
                        "method": method,
                        "target": target,
                        "seed": seed,
                        "metric": "accuracy",
                        "score": 60.0 + 10 * t + m + seed,
                        "majority": 51.5,
                        "zero_shot": 62.25,
                        "collapsed": method == "PT" and t == 0,
                        "test_rows": 1200,
                        "train_rows": 32,
                        "trainable_parameters": 9216,
                        "target_updates": 30,
                        "target_examples": 240,
                        "source_updates": 60,
                        "seconds": 12.3,
                        "prompt": f"prompts/{method}/{target}-seed{seed}.safetensors",
                        "notes": "",
                    }
                )
                history: dict[str, Any] = {"loss": [[1, 2.0], [2, 1.0]]}
                if method == "DTVG":
                    names = [*SOURCES, target]
                    matrix = [[1.0 if a == b else -0.1 for b in names] for a in names]
                    history["similarity"] = {"names": names, "matrix": matrix}
                    history["groups"] = [[1, ["amazon"]], [2, []]]
                if method == "BMTPT":
                    history["particles"] = {"mean_distance": [[1, 1.0], [2, 1.5]], "bandwidth": [[1, 0.1], [2, 0.2]]}
                path = folder / "history" / f"{method}-{target}-seed{seed}.json"
                path.write_text(json.dumps(history), encoding="utf-8")
    source = {"seed": 1, "score": 88.0, "majority": 59.4, "zero_shot": 70.0, "collapsed": False}
    source |= {"test_rows": 200, "train_rows": 2000, "updates": 60, "seconds": 9.0}
    content = {
        "format": 1,
        "model": "<b>evil</b>",
        "model_fingerprint": "f" * 20,
        "commit": "c" * 40,
        "machine": {"device": "cpu", "threads": 2, "precision": "bfloat16"},
        "versions": {"torch": "2.13.0"},
        "settings": {"model": "demo"},
        "sources": [{"source": name, **source} for name in SOURCES],
        "rows": rows,
        "finished": finished,
    }
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return folder
