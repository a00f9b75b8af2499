"""BMTPT from Python: particles of the sources' posterior, how far they stand apart, and what they give a target.

python examples/bmtpt.py
"""

import json
from pathlib import Path

from prompttransfer import Progress, RunConfig, compare


def main(**changes: object) -> dict[str, list]:
    """The history of the particles; changes: other settings than these."""
    settings = {"sources": ("amazon", "tweets"), "targets": ("nyt",), "methods": ("PT", "BMTPT")}
    settings |= {"transfer_from": "all", "seeds": (42,)}  # as published
    bmtpt = {"particles": 4, "bandwidth": "liu2016", "evidence": 100, "beta": 1e-3, "prior": "mixture"}
    config = RunConfig(**settings | {"bmtpt": bmtpt, "output": Path("runs/bmtpt")} | changes)
    with Progress() as progress:
        folder = compare(config, progress)

    for row in json.loads((folder / "results.json").read_text())["rows"]:
        print(f"{row['method']}: {row['metric']} {row['score']:.1f} (zero-shot {row['zero_shot']:.1f})")

    (history,) = (folder / "history").glob("BMTPT-*.json")
    particles = json.loads(history.read_text())["particles"]
    for name, curve in particles.items():
        (first, start), (last, end) = curve[0], curve[-1]
        print(f"{name}: {start:.4g} at update {first}, {end:.4g} at update {last}")
    return particles


if __name__ == "__main__":
    main()
