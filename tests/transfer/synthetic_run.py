"""A run folder as written by `compare`, with synthetic numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TARGETS, METHODS, SOURCES = ("sst2", "n<y>t"), ("PT", "DTVG", "BMTPT"), ("amazon", "r8")


def write_run(
    folder: Path,
    seeds: Sequence[int] = (1, 2),
    finished: bool = True,
    *,
    targets: Sequence[str] = TARGETS,
    methods: Sequence[str] = METHODS,
    sources: Sequence[str] = SOURCES,
    metrics: Mapping[str, str] | None = None,
    updates: int = 2,
    plus: float = 0.0,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Scores: 60 + 10 * target + method + seed (a hundredth of it for meteor) + plus; PT collapses on the first target.

    Args:
        metrics: metrics of targets other than accuracy.
        updates: length of the histories.
    """
    rows: list[dict[str, Any]] = []
    (folder / "history").mkdir(parents=True)
    for t, target in enumerate(targets):
        metric = (metrics or {}).get(target, "accuracy")
        unit = 0.01 if metric == "meteor" else 1.0
        for m, method in enumerate(methods):
            for seed in seeds:
                rows.append(
                    target_facts(
                        method=method,
                        target=target,
                        seed=seed,
                        metric=metric,
                        score=(60.0 + 10 * (t % 4) + m + seed + plus) * unit,
                        other_scores={"macro-f1": 50.0 + seed},
                        majority=51.5 * unit,
                        zero_shot=62.25 * unit,
                        collapsed=method == "PT" and t == 0,
                        notes="merged: <amazon>" if method == "DTVG" else "",
                        prompt=f"prompts/{method}/{target}-seed{seed}.safetensors",
                    )
                )
                history = _history(method, target, sources, updates)
                path = folder / "history" / f"{method}-{target}-seed{seed}.json"
                path.write_text(json.dumps(history), encoding="utf-8")
    content = {
        "format": 1,
        "model": "<b>evil</b>",
        "model_fingerprint": "f" * 20,
        "commit": "c" * 40,
        "machine": {"device": "cpu", "threads": 2, "precision": "bfloat16"},
        "versions": {"torch": "2.13.0"},
        "settings": {"model": "demo", **(settings or {})},
        "sources": [source_facts(name, prompt=f"prompts/sources/{name}-seed1.safetensors") for name in sources],
        "rows": rows,
        "finished": finished,
    }
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def target_facts(method: str, target: str, seed: int, score: float, **more: Any) -> dict[str, Any]:
    """A target's row of results.json; more: values other than these."""
    row = {"method": method, "target": target, "seed": seed, "metric": "accuracy", "scoring": "first-token"}
    row |= {"score": score, "other_scores": {}, "majority": 51.5, "zero_shot": 62.25, "collapsed": False}
    row |= {"test_rows": 1200, "train_rows": 32, "leaked_rows": 3, "skipped_rows": 0, "trainable_parameters": 9216}
    row |= {"target_updates": 30, "target_examples": 240, "source_updates": 60, "seconds": 12.3, "notes": ""}
    return row | more


def source_facts(source: str, **more: Any) -> dict[str, Any]:
    """A source's row of results.json."""
    row = {"source": source, "seed": 1, "metric": "accuracy", "scoring": "first-token", "score": 88.0}
    row |= {"other_scores": {}, "majority": 59.4, "zero_shot": 70.0, "collapsed": False, "test_rows": 200}
    row |= {"train_rows": 2000, "leaked_rows": 0, "skipped_rows": 0, "updates": 60, "seconds": 9.0}
    return row | more


def _history(method: str, target: str, sources: Sequence[str], updates: int) -> dict[str, Any]:
    """A falling loss, and the other values that the method logs."""
    history: dict[str, Any] = {"loss": [[update, 2.0 / update] for update in range(1, updates + 1)]}
    if method == "DTVG":
        names = [*sources, target]
        history["similarity"] = {"names": names, "matrix": [[1.0 if a == b else -0.1 for b in names] for a in names]}
        half = updates // 2
        history["groups"] = [[update, [sources[0]] if update <= half else []] for update in range(1, updates + 1)]
    if method == "BMTPT":
        distance = [[update, 1.0 + 0.5 * update] for update in range(1, updates + 1)]
        history["particles"] = {"mean_distance": distance, "bandwidth": [[u, 0.1 * u] for u, _ in distance]}
    if method == "ATTEMPT":
        history["attention"] = {name: 1 / (len(sources) + 1) for name in (*sources, target)}
    return history
