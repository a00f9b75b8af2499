"""MPT from Python: two sources teach a target with 32 rows; then what each part of the method is worth.

python examples/mpt.py
"""

import json
from pathlib import Path

from prompttransfer import Progress, RunConfig, compare


def main(**changes: object) -> dict[str, float]:
    """Scores of plain prompt tuning and of two ablations of MPT; changes: other settings than these."""
    settings = {
        "sources": ("amazon", "tweets"),
        "targets": ("nyt",),
        "methods": ("PT", "MPT"),
        "transfer_from": "all",  # as published
        "seeds": (42,),
        "output": Path("runs/mpt"),
    }
    settings |= changes
    scores = {}
    for ablation in ("none", "no-distillation"):
        config = RunConfig(**settings | {"mpt": {"rank": 1, "ablation": ablation}})
        config = config.model_copy(update={"output": config.output / ablation})
        with Progress() as progress:
            folder = compare(config, progress)  # what both runs share, teachers and PT, is trained once
        for row in json.loads((folder / "results.json").read_text())["rows"]:
            name = row["method"] if row["method"] == "PT" else f"MPT, ablation {ablation}"
            scores[name] = row["score"]
            print(f"{name}: {row['metric']} {row['score']:.1f}, {row['trainable_parameters']} parameters")
            print(f"  zero-shot {row['zero_shot']:.1f}, majority {row['majority']:.1f}, {row['test_rows']} test rows")
    return scores


if __name__ == "__main__":
    main()
