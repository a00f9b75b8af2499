"""DTVG from Python: which sources were merged when, how alike the tasks are, and the prompt as a matrix.

python examples/dtvg.py
"""

import json
from collections import Counter
from pathlib import Path

from prompttransfer import Progress, RunConfig, compare


def main(**changes: object) -> Counter[tuple[str, ...]]:
    """How many updates each group of sources was merged; changes: other settings than these."""
    settings = {"sources": ("amazon", "tweets", "r8"), "targets": ("nyt",), "methods": ("PT", "SPoT", "DTVG")}
    settings |= {"transfer_from": "all", "seeds": (42,)}  # as published
    dtvg = {"variant": "paper", "consistency_weight": 1.0, "scale_start": "mean"}
    config = RunConfig(**settings | {"dtvg": dtvg, "output": Path("runs/dtvg")} | changes)
    with Progress() as progress:
        folder = compare(config, progress)

    for row in json.loads((folder / "results.json").read_text())["rows"]:
        print(f"{row['method']}: {row['metric']} {row['score']:.1f} after {row['target_updates']} target updates")

    (history,) = (folder / "history").glob("DTVG-*.json")
    facts = json.loads(history.read_text())
    for name, cosines in zip(facts["similarity"]["names"], facts["similarity"]["matrix"], strict=True):
        print(f"{name:>12}", *(f"{cosine:6.2f}" for cosine in cosines))
    groups = Counter(tuple(sources) for _, sources in facts["groups"])
    for sources, updates in groups.most_common():
        print(f"merged in {updates} updates: {', '.join(sources) or 'no source'}")
    return groups


if __name__ == "__main__":
    main()
