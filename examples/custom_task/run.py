"""A task of your own: a table (reviews.csv) and a few lines that describe it (reviews.yaml).

    python examples/custom_task/run.py

is the same as

    prompttransfer compare --sources amazon --targets examples/custom_task/reviews.yaml --methods PT,SPoT
"""

import json
from pathlib import Path

from prompttransfer import Progress, RunConfig, compare, load_task

HERE = Path(__file__).resolve().parent


def main(**changes: object) -> list[dict]:
    """The rows of the results; changes: other settings than these."""
    task = load_task(str(HERE / "reviews.yaml"))
    print(f"{task.name}: {len(task.train)} training, {len(task.test)} test rows, {task.skipped} left out")
    print(repr(task.train[0]["text"]), "->", task.choices[task.train[0]["label"]])

    settings = {"sources": ("amazon",), "targets": (str(HERE / "reviews.yaml"),), "methods": ("PT", "SPoT")}
    config = RunConfig(**settings | {"output": Path("runs/reviews")} | changes)
    with Progress() as progress:
        folder = compare(config, progress)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    for row in rows:
        others = ", ".join(f"{metric} {score:.1f}" for metric, score in row["other_scores"].items())
        print(f"{row['method']}: {row['metric']} {row['score']:.1f} ({others})")
    return rows


if __name__ == "__main__":
    main()
